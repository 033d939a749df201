"""The HTTP service, its monitoring and its drift report."""
