"""Configuration: the schema and its sections, strict YAML, components by name, credentials."""
