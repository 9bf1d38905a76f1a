"""What model/ and engine/ both stand on: the process before MXNet loads, errors for people, parameter files."""
