"""The command line: words in, one sentence out when they are wrong, runs that go on."""
