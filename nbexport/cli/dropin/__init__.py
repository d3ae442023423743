"""Commands with the command lines of QEMU's own programs, to stand in the PATH in their places."""
