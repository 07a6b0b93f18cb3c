"""What each command is called and takes, in groups; a command imports what only it needs."""
