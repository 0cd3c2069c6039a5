"""One module per command: declare the options, resolve the settings, call one core function, report the result."""
