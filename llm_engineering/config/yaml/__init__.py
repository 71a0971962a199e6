"""From YAML files and flags to a configuration: layers, loading, and messages that name file and line."""
