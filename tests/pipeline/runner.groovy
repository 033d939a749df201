// Runs a declarative Jenkinsfile without Jenkins: `groovy runner.groovy SITUATION.json ...`.
//
// Each `sh` is really executed: on this machine, or in a container of the image that is really
// built from the Dockerfile. What a stage, step, condition or option is called must be known
// here, else the run ends with an error; that stands for Jenkins's own check, and is weaker.
// As in Jenkins, each node has a workspace of its own, and processes that carry its cookie are
// ended when its block ends. Other than in Jenkins, parallel stages run one after the other, and a
// lock is always free.
//
// SITUATION.json: workspace, repository, branch, tag, change, user, params, variables, credentials,
// environment, engine, image, volume, log, previous, ends.
// With "dry" nothing is executed, which shows what would be; "ends" are results of scripts.
// Prints one JSON line for all that happens: {"event": ..., ...}.
import groovy.json.JsonOutput
import groovy.json.JsonSlurper
import java.nio.file.FileSystems
import java.nio.file.Files
import java.util.concurrent.TimeUnit

class StepFailed extends RuntimeException {
    String result

    StepFailed(String why, String result = 'FAILURE') {
        super(why)
        this.result = result
    }
}

/** Collects what a declarative block says: name → arguments or nested block. */
class Collector {
    Map<String, Object> found = [:]
    Set<String> allowed
    Map context

    def call(String name, args) {
        if (!(name in allowed)) throw new IllegalStateException("unknown: ${name}; allowed: ${allowed}")
        found[name] = args
    }

    def methodMissing(String name, args) { call(name, args as List) }

    def propertyMissing(String name) { context[name] }
}

class Runner {
    Map situation
    Script script
    Map binding = [:]
    Map<String, String> environment = [:]
    Set<String> secrets = []
    List<String> containers = []
    String workspace
    // [minutes, time of the end in ms], the outer ones first.
    List<List> limits = []
    String result = 'SUCCESS'
    boolean built = false

    static final STAGE = ['agent', 'environment', 'options', 'when', 'steps', 'stages', 'parallel', 'post'] as Set
    static final POST = ['always', 'fixed', 'failure', 'success', 'unsuccessful', 'cleanup'] as Set
    static final OPTIONS = ['timeout', 'disableConcurrentBuilds', 'disableRestartFromStage', 'buildDiscarder',
                            'timestamps', 'skipDefaultCheckout', 'logRotator'] as Set
    static final STAGE_OPTIONS = ['timeout', 'lock'] as Set

    void log(Map event) {
        println JsonOutput.toJson(event)
        System.out.flush()
    }

    Map collect(Closure block, Set<String> allowed) {
        def collector = new Collector(allowed: allowed, context: binding)
        block.delegate = collector
        block.resolveStrategy = Closure.DELEGATE_FIRST
        block()
        collector.found
    }

    // The whole

    void pipeline(Closure block) {
        def parts = collect(block, ['agent', 'options', 'triggers', 'parameters', 'environment', 'stages', 'post'] as Set)
        collect(parts.triggers[0] as Closure, ['pollSCM'] as Set)
        collect(parts.parameters[0] as Closure, ['choice', 'booleanParam'] as Set)
        if (parts.agent != [null]) throw new IllegalStateException('a node for the whole pipeline')
        try {
            limited(collect(parts.options[0] as Closure, OPTIONS).timeout) {
                try {
                    assign(parts.environment)
                    stages(parts.stages[0] as Closure)
                } catch (StepFailed error) {
                    result = error.result
                    log(event: 'failed', why: error.message)
                }
                binding.currentBuild.currentResult = result
                post(parts.post, '', result)
            }
        } finally {
            log(event: 'end', result: result)
        }
    }

    /** What `body` does, with the arguments of `timeout` if there are any. */
    void limited(List timeout, Closure body) {
        if (!timeout) {
            body()
            return
        }
        int minutes = timeout[0].time * (timeout[0].unit == 'HOURS' ? 60 : 1)
        limits << [minutes, System.currentTimeMillis() + minutes * 60000L]
        try {
            body()
        } finally {
            limits.pop()
        }
    }

    /** Runs `body` where the agent of a stage says: here, on another node or in a container. */
    void agent(block, Closure body) {
        def kind = block ? collect(block[0] as Closure, ['label', 'dockerfile'] as Set) : [:]
        if (kind.label) node(kind.label[0], body)
        else if (kind.dockerfile) container(kind.dockerfile[0] as Closure, body)
        else body()
    }

    void node(String label, Closure body) {
        log(event: 'node', label: label, minutes: limits.last()[0])
        def outer = workspace
        workspace = "${situation.workspace}/${label}"
        environment.JENKINS_NODE_COOKIE = UUID.randomUUID().toString()
        try {
            body()
        } finally {
            endProcesses(environment.remove('JENKINS_NODE_COOKIE'))
            workspace = outer
        }
    }

    void endProcesses(String cookie) {
        if (situation.dry) return
        new File('/proc').listFiles().findAll { it.name.isInteger() }.each { process ->
            try {
                if (new File(process, 'environ').text.split('\0').contains("JENKINS_NODE_COOKIE=${cookie}".toString())) {
                    log(event: 'ended', command: new File(process, 'cmdline').text.replace('\0', ' '))
                    ['kill', process.name].execute().waitFor()
                }
            } catch (IOException error) {
                // It has ended, or belongs to another user.
            }
        }
    }

    void assign(block) {
        if (block == null) return
        def outer = this
        def closure = block[0] as Closure
        closure.delegate = new Object() {
            void setProperty(String name, value) {
                outer.environment[name] = value.toString()
                outer.log(event: 'environment', name: name, empty: !outer.environment[name])
            }
            def getProperty(String name) { outer.binding[name] }
        }
        closure.resolveStrategy = Closure.DELEGATE_ONLY
        closure()
    }

    def secret(String id) {
        if (!(id in situation.credentials)) throw new StepFailed("Could not find credentials entry with ID '${id}'")
        situation.credentials[id]
    }

    // Stages

    void stages(Closure block, boolean all = false) {
        def list = []
        block.delegate = new Object() { def stage(String name, Closure body) { list << [name, body] } }
        block.resolveStrategy = Closure.DELEGATE_ONLY
        block()
        StepFailed first
        list.each {
            try {
                if (all || !first) stage(it[0], it[1])
            } catch (StepFailed error) {
                first = first ?: error
            }
        }
        if (first) throw first
    }

    void stage(String name, Closure body) {
        def parts = collect(body, STAGE)
        // Jenkins asks after it took the lock and the node, if not told otherwise.
        if (parts.when && !holds(parts.when[0] as Closure)) {
            log(event: 'skipped', stage: name)
            return
        }
        def options = parts.options ? collect(parts.options[0] as Closure, STAGE_OPTIONS) : [:]
        if (options.lock) log(event: 'lock', name: options.lock[0])
        def outer = new LinkedHashMap(environment)
        def begun = System.currentTimeMillis()
        try {
            limited(options.timeout) { agent(parts.agent) { inside(name, parts) } }
        } finally {
            environment = outer
            log(event: 'end of stage', stage: name, seconds: (System.currentTimeMillis() - begun) / 1000)
        }
    }

    void inside(String name, Map parts) {
        log(event: 'stage', stage: name, container: !containers.empty)
        String ended = 'SUCCESS'
        try {
            assign(parts.environment)
            if (parts.stages) stages(parts.stages[0] as Closure)
            if (parts.parallel) stages(parts.parallel[0] as Closure, true)
            if (parts.steps) steps(parts.steps[0] as Closure)
        } catch (StepFailed error) {
            ended = error.result
            log(event: 'failed stage', stage: name, why: error.message)
            throw error
        } finally {
            post(parts.post, name, ended)
        }
    }

    boolean holds(Closure block, boolean any = false) {
        def results = []
        def outer = this
        block.delegate = new Object() {
            void beforeAgent(boolean yes) { }
            void beforeOptions(boolean yes) { }
            void branch(String name) { results << (outer.situation.branch == name) }
            void tag(String glob) { results << (outer.binding.env.TAG_NAME ==~ glob.replace('*', '.*')) }
            void buildingTag() { results << (outer.binding.env.TAG_NAME != null) }
            void changeRequest() { results << (outer.situation.change != null) }
            void expression(Closure what) {
                what.delegate = outer.binding
                what.resolveStrategy = Closure.DELEGATE_FIRST
                results << (what() as boolean)
            }
            void not(Closure what) { results << !outer.holds(what) }
            void anyOf(Closure what) { results << outer.holds(what, true) }
            void allOf(Closure what) { results << outer.holds(what) }
        }
        block.resolveStrategy = Closure.DELEGATE_ONLY
        block()
        any ? results.any() : results.every()
    }

    void post(block, String stage, String ended) {
        if (block == null) return
        def parts = collect(block[0] as Closure, POST)
        boolean good = ended == 'SUCCESS'
        def due = ['always']
        if (good && situation.previous != 'SUCCESS') due << 'fixed'
        if (good) due << 'success'
        if (ended == 'FAILURE') due << 'failure'
        if (!good) due << 'unsuccessful'
        due << 'cleanup'
        due.findAll { parts[it] }.each { condition ->
            log(event: 'post', stage: stage, condition: condition)
            steps(parts[condition][0] as Closure)
        }
    }

    // Steps

    void steps(Closure block) {
        block.delegate = script
        block.resolveStrategy = Closure.DELEGATE_ONLY
        block()
    }

    /** What the script knows by name; it may call steps in functions of its own. */
    Map names() {
        [
            pipeline: this.&pipeline, sh: this.&sh, checkout: this.&checkout, junit: this.&junit,
            archiveArtifacts: this.&archive, stash: this.&stash, unstash: this.&unstash, cleanWs: this.&clean,
            timeout: { Map how, Closure body -> limited([how]) { steps(body) } },
            withCredentials: this.&withCredentials,
            emailext: { Map how -> log(event: 'mail', subject: how.subject.toString()) },
            developers: { 'developers' },
            requestor: { 'requestor' },
            usernamePassword: { Map how ->
                def pair = secret(how.credentialsId)
                [(how.usernameVariable): pair[0], (how.passwordVariable): pair[1]]
            },
            gitUsernamePassword: { Map how -> [GIT_PASSWORD: secret(how.credentialsId)] },
        ]
    }

    void withCredentials(List<Map> what, Closure body) {
        def outer = environment
        environment = what.inject(new LinkedHashMap(environment)) { all, one -> all + one }
        secrets = what.collectMany { it.keySet() } as Set
        try {
            steps(body)
        } finally {
            environment = outer
            secrets = []
        }
    }

    void checkout(Map how) {
        def options = how.extensions.collectEntries { [it.$class, it] }
        if (options.CloneOption.shallow != false) throw new StepFailed('a shallow clone')
        if (!options.LocalBranch) throw new StepFailed('a detached checkout')
        if (!how.extensions.containsAll(binding.scm.extensions)) throw new StepFailed('not the pinned commit')
        if (how.branches != situation.branch || how.userRemoteConfigs != situation.repository) {
            throw new StepFailed('checks out something else')
        }
        run(['git', 'clone', '--quiet', '--branch', situation.branch, situation.repository, workspace], new File('/'))
        // Jenkins does not run as root, and its user has no name in the image.
        run(['chown', '-R', situation.user, workspace])
    }

    void junit(Map how) {
        if (situation.dry) return
        def found = new File(workspace, how.testResults)
        if (!found.exists()) {
            if (how.allowEmptyResults) return
            throw new StepFailed("No test report files were found: ${how.testResults}")
        }
        def suites = new XmlSlurper().parse(found)
        log(event: 'junit', tests: suites.testsuite.@tests.text(), failures: suites.testsuite.@failures.text())
    }

    List<String> matching(String globs) {
        def root = new File(workspace).toPath()
        def matchers = globs.split(',').collect { FileSystems.default.getPathMatcher("glob:${it.trim()}") }
        def files = []
        root.eachFileRecurse { file ->
            def path = root.relativize(file)
            if (matchers.any { it.matches(path) } && Files.isRegularFile(file)) files << path.toString()
        }
        files.sort()
    }

    void archive(Map how) {
        if (!situation.dry) log(event: 'archive', files: matching(how.artifacts))
    }

    String stashed(String name) { "${situation.workspace}/stash-${name}" }

    void stash(Map how) {
        if (situation.dry) return
        def files = matching(how.includes)
        if (!files) throw new StepFailed("No files included in stash '${how.name}'")
        run(['mkdir', '-p', stashed(how.name)])
        run(['cp', '--parents', *files, stashed(how.name)])
    }

    void unstash(String name) { run(['cp', '-R', "${stashed(name)}/.", workspace]) }

    void clean() {
        log(event: 'clean')
        run(['rm', '-rf', workspace], new File('/'))
    }

    void sh(String text) {
        log(event: 'sh', script: text, container: !containers.empty, minutes: limits.last()[0], secrets: secrets.sort())
        def ends = situation.ends[text]
        if (ends) throw new StepFailed("${text} ended: ${ends}", ends)
        def command = ['sh', '-xec', text]
        if (containers) {
            def variables = environment.collectMany { name, value -> ['--env', "${name}=${value}".toString()] }
            command = [situation.engine, 'exec', *variables, containers.last(), *command]
        }
        int status = run(command, new File(workspace), false)
        if (status) throw new StepFailed("script returned exit code ${status}: ${text}")
    }

    // As the Docker Pipeline plugin does: build, one container for the stage, exec in it.
    void container(Closure block, Closure body) {
        def how = collect(block, ['reuseNode', 'args'] as Set)
        // Without reuseNode Jenkins would take another workspace, in which there is no checkout.
        if (how.reuseNode != [true]) throw new IllegalStateException('dockerfile without reuseNode true')
        if (!built) {
            run([situation.engine, 'build', '--quiet', '--tag', situation.image, '.'])
            built = true
        }
        def name = "${situation.image}-${System.nanoTime()}".toString()
        // Builds on this machine must not meet each other's cache.
        def options = how.args ? how.args[0].replace('traffic-signs-cache', situation.volume).split(' ') as List : []
        run([situation.engine, 'run', '--detach', '--name', name, '--user', situation.user,
             '--volume', "${workspace}:${workspace}".toString(), *options,
             '--workdir', workspace, situation.image, 'sleep', '3600'])
        containers << name
        try {
            body()
        } finally {
            run([situation.engine, 'rm', '--force', '--time', '0', containers.pop()])
        }
    }

    int run(List command, File folder = new File(workspace), boolean must = true) {
        if (situation.dry) return 0
        def builder = new ProcessBuilder(command*.toString()).directory(folder).redirectErrorStream(true)
        builder.environment().putAll(situation.environment)
        builder.environment().putAll(environment)
        builder.redirectOutput(ProcessBuilder.Redirect.appendTo(new File(situation.log)))
        def process = builder.start()
        // What comes after the end of a limit has a minute, as in Jenkins.
        long left = limits*.get(1).min() - System.currentTimeMillis()
        if (!process.waitFor(left > 0 ? left : 60000, TimeUnit.MILLISECONDS)) {
            process.destroy()
            throw new StepFailed("${command.take(3).join(' ')} took too long", 'ABORTED')
        }
        def status = process.exitValue()
        if (must && status) throw new StepFailed("${command.take(3).join(' ')} failed with ${status}")
        status
    }
}

args.each { file ->
    def situation = new JsonSlurper().parse(new File(file))
    def runner = new Runner(situation: situation, workspace: situation.workspace)
    runner.binding = runner.names() + [
        params: situation.params,
        env: [TAG_NAME: situation.tag, BUILD_URL: 'http://localhost/job/1/'] + situation.variables,
        scm: [branches: situation.branch, userRemoteConfigs: situation.repository,
              extensions: [[$class: 'BuildChooserSetting']]],
        currentBuild: [fullDisplayName: 'test'],
    ]
    runner.script = new GroovyShell(new Binding(runner.binding)).parse(new File(situation.jenkinsfile))
    runner.script.run()
}
