"""From a configuration to the objects that compute."""
