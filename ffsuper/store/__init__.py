"""Every call to Redis or Valkey: connections, the libraries, keys, one method per function."""
