"""Where results live: run directories, manifests, named seeds, metric sinks, content-addressed artifacts."""
