// Runs a declarative Jenkinsfile without Jenkins: `groovy runner.groovy SITUATION.json`.
//
// Each `sh` is really executed: on this machine, or in a container of the image that is really
// built from the Dockerfile. What a stage, step, condition or option is called must be known
// here, else the run ends with an error; that stands for Jenkins's own check, and is weaker.
//
// SITUATION.json: workspace, repository, branch, tag, user, params, credentials, environment, engine, image.
// With "dry" nothing is executed, which shows what would be.
// Prints one JSON line for all that happens: {"event": ..., ...}.
import groovy.json.JsonOutput
import groovy.json.JsonSlurper
import java.nio.file.FileSystems
import java.nio.file.Files

class StepFailed extends RuntimeException {
    StepFailed(String why) { super(why) }
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
    Map binding = [:]
    Map<String, String> environment = [:]
    List<String> containers = []
    String result = 'SUCCESS'
    boolean built = false

    static final STAGE = ['agent', 'environment', 'when', 'steps', 'stages', 'parallel', 'post'] as Set
    static final POST = ['always', 'changed', 'failure', 'success', 'cleanup'] as Set
    static final OPTIONS = ['timeout', 'disableConcurrentBuilds', 'buildDiscarder', 'timestamps',
                            'skipDefaultCheckout', 'logRotator'] as Set

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
        collect(parts.options[0] as Closure, OPTIONS)
        collect(parts.triggers[0] as Closure, ['pollSCM'] as Set)
        collect(parts.parameters[0] as Closure, ['choice', 'booleanParam'] as Set)
        agent(parts.agent[0] as Closure)
        try {
            try {
                assign(parts.environment)
                stages(parts.stages[0] as Closure)
            } catch (StepFailed error) {
                result = 'FAILURE'
                log(event: 'failed', why: error.message)
            }
            binding.currentBuild = [fullDisplayName: 'test', currentResult: result]
            post(parts.post, '')
        } finally {
            log(event: 'end', result: result)
        }
    }

    /** Whether steps from now on run in a container; a label is this machine. */
    boolean agent(Closure block) {
        def kind = collect(block, ['label', 'dockerfile', 'any', 'none'] as Set)
        if (!kind.dockerfile) return false
        def how = collect(kind.dockerfile[0] as Closure, ['reuseNode', 'filename', 'args', 'additionalBuildArgs'] as Set)
        // Without reuseNode Jenkins would take another workspace, in which there is no checkout.
        if (how.reuseNode != [true]) throw new IllegalStateException('dockerfile without reuseNode true')
        true
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
            def credentials(String id) { outer.secret(id) }
        }
        closure.resolveStrategy = Closure.DELEGATE_ONLY
        closure()
    }

    String secret(String id) {
        if (!(id in situation.credentials)) throw new StepFailed("Could not find credentials entry with ID '${id}'")
        situation.credentials[id]
    }

    // Stages

    void stages(Closure block) {
        def list = []
        block.delegate = new Object() { def stage(String name, Closure body) { list << [name, body] } }
        block.resolveStrategy = Closure.DELEGATE_ONLY
        block()
        list.each { stage(it[0], it[1]) }
    }

    void stage(String name, Closure body) {
        def parts = collect(body, STAGE)
        if (parts.when && !holds(parts.when[0] as Closure)) {
            log(event: 'skipped', stage: name)
            return
        }
        def outer = new LinkedHashMap(environment)
        boolean inside = parts.agent && agent(parts.agent[0] as Closure)
        if (inside) startContainer()
        log(event: 'stage', stage: name, container: !containers.empty)
        boolean failed = false
        def begun = System.currentTimeMillis()
        try {
            assign(parts.environment)
            if (parts.stages) stages(parts.stages[0] as Closure)
            if (parts.steps) steps(parts.steps[0] as Closure)
        } catch (StepFailed error) {
            failed = true
            log(event: 'failed stage', stage: name, why: error.message)
            throw error
        } finally {
            post(parts.post, name, failed)
            if (inside) stopContainer()
            environment = outer
            log(event: 'end of stage', stage: name, seconds: (System.currentTimeMillis() - begun) / 1000)
        }
    }

    boolean holds(Closure block, boolean any = false) {
        def results = []
        def outer = this
        block.delegate = new Object() {
            void beforeAgent(boolean yes) { }
            void branch(String name) { results << (outer.situation.branch == name) }
            void tag(String glob) { results << (outer.binding.env.TAG_NAME ==~ glob.replace('*', '.*')) }
            void buildingTag() { results << (outer.binding.env.TAG_NAME != null) }
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

    void post(block, String stage, boolean failed = result == 'FAILURE') {
        if (block == null) return
        def parts = collect(block[0] as Closure, POST)
        def due = ['always']
        // The runs of the tests follow builds that went well.
        if (failed) due << 'changed'
        due << (failed ? 'failure' : 'success') << 'cleanup'
        due.findAll { parts[it] }.each { condition ->
            log(event: 'post', stage: stage, condition: condition)
            steps(parts[condition][0] as Closure)
        }
    }

    // Steps

    void steps(Closure block) {
        def outer = this
        block.delegate = new Object() {
            void sh(String script) { outer.sh(script) }
            void checkout(Map how) { outer.checkout(how) }
            void junit(String file) { outer.junit(file) }
            void archiveArtifacts(Map how) { outer.archive(how) }
            void emailext(Map how) { outer.log(event: 'mail', subject: how.subject.toString()) }
            void cleanWs() { outer.log(event: 'clean') }
            def developers() { 'developers' }
            def requestor() { 'requestor' }
            def gitUsernamePassword(Map how) { outer.secret(how.credentialsId) }
            void withCredentials(List what, Closure body) { outer.steps(body) }
            def getProperty(String name) { outer.binding[name] }
        }
        block.resolveStrategy = Closure.DELEGATE_ONLY
        block()
    }

    void checkout(Map how) {
        def options = how.extensions.collectEntries { [it.$class, it] }
        if (options.CloneOption.shallow != false) throw new StepFailed('a shallow clone')
        if (!options.LocalBranch) throw new StepFailed('a detached checkout')
        if (how.branches != situation.branch || how.userRemoteConfigs != situation.repository) {
            throw new StepFailed('checks out something else')
        }
        run(['git', 'clone', '--quiet', '--branch', situation.branch, situation.repository, situation.workspace],
            new File(situation.workspace).parentFile)
        // Jenkins does not run as root, and its user has no name in the image.
        run(['chown', '-R', situation.user, situation.workspace], new File(situation.workspace))
    }

    void junit(String file) {
        if (situation.dry) return
        def found = new File(situation.workspace, file)
        if (!found.exists()) throw new StepFailed("No test report files were found: ${file}")
        def suites = new XmlSlurper().parse(found)
        log(event: 'junit', tests: suites.testsuite.@tests.text(), failures: suites.testsuite.@failures.text())
    }

    void archive(Map how) {
        if (situation.dry) return
        def root = new File(situation.workspace).toPath()
        def matchers = how.artifacts.split(',').collect {
            FileSystems.default.getPathMatcher("glob:${it.trim()}")
        }
        def files = []
        root.eachFileRecurse { file ->
            def path = root.relativize(file)
            if (matchers.any { it.matches(path) } && Files.isRegularFile(file)) files << path.toString()
        }
        log(event: 'archive', files: files.sort())
    }

    void sh(String script) {
        log(event: 'sh', script: script, container: !containers.empty)
        def command = ['sh', '-xec', script]
        if (containers) {
            def variables = environment.collectMany { name, value -> ['--env', "${name}=${value}".toString()] }
            command = [situation.engine, 'exec', *variables, containers.last(), *command]
        }
        int status = run(command, new File(situation.workspace), false)
        if (status) throw new StepFailed("script returned exit code ${status}: ${script}")
    }

    // As the Docker Pipeline plugin does: build, one container for the stage, exec in it.
    void startContainer() {
        if (!built) {
            run([situation.engine, 'build', '--quiet', '--tag', situation.image, '.'], new File(situation.workspace))
            built = true
        }
        def name = "${situation.image}-${System.nanoTime()}".toString()
        run([situation.engine, 'run', '--detach', '--name', name, '--user', situation.user,
             '--volume', "${situation.workspace}:${situation.workspace}".toString(),
             '--workdir', situation.workspace, situation.image, 'sleep', '3600'], new File(situation.workspace))
        containers << name
    }

    void stopContainer() {
        run([situation.engine, 'rm', '--force', '--time', '0', containers.pop()], new File(situation.workspace))
    }

    int run(List<String> command, File folder, boolean must = true) {
        if (situation.dry) return 0
        def builder = new ProcessBuilder(command*.toString()).directory(folder).redirectErrorStream(true)
        builder.environment().putAll(situation.environment)
        builder.environment().putAll(environment)
        builder.redirectOutput(ProcessBuilder.Redirect.appendTo(new File(situation.log)))
        def status = builder.start().waitFor()
        if (must && status) throw new StepFailed("${command.take(3).join(' ')} failed with ${status}")
        status
    }
}

def situation = new JsonSlurper().parse(new File(args[0]))
def runner = new Runner(situation: situation)
runner.binding = [
    params: situation.params,
    env: [TAG_NAME: situation.tag, BUILD_URL: 'http://localhost/job/1/'],
    scm: [branches: situation.branch, userRemoteConfigs: situation.repository],
    currentBuild: [:],
]
def script = new GroovyShell().parse(new File(situation.jenkinsfile))
script.metaClass.pipeline = { Closure block -> runner.pipeline(block) }
script.run()
System.exit(runner.result == 'SUCCESS' ? 0 : 1)
