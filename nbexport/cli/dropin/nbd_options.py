"""The options of ``nbexport-nbd``: what is read, what the help says, and how qemu-nbd compares.

The order is that of QEMU's own table, which an ambiguous name makes visible.

Source: qemu-nbd(8).
"""

from __future__ import annotations

from nbexport.cli.dropin.getopt import Option

_CONNECTION = "Connection"
_PART = "What is exported of the image"
_GENERAL = "General"
_KERNEL = "Device of the kernel"
_IMAGE = "Image"

OPTIONS = (
    Option("help", "h", "", "print this help"),
    Option(
        "version", "V", "", "print the version", "", "differs",
        "the first line has qemu-nbd's form, with our name in the brackets",
    ),
    Option("bind", "b", "ADDRESS", "TCP address to listen at (default 0.0.0.0)", _CONNECTION),
    Option("port", "p", "PORT", "TCP port to listen at (default 10809)", _CONNECTION),
    Option(
        "socket", "k", "PATH", "unix socket to listen at", _CONNECTION, "differs",
        "at the end a socket that another program has put in its place stays",
    ),
    Option("offset", "o", "BYTES", "where in the image the export begins", _PART),
    Option("read-only", "r", "", "let nobody write", _IMAGE),
    Option("allocation-depth", "A", "", "offer the context qemu:allocation-depth", _PART),
    Option("bitmap", "B", "NAME", "offer a dirty bitmap; may be repeated", _PART),
    Option(
        "connect", "c", "DEVICE", "connect the kernel's device to the image", _KERNEL, "differs",
        "tried on machines that have no such device only",
    ),
    Option(
        "disconnect", "d", "", "disconnect the kernel's device FILE", _KERNEL, "differs",
        "tried on machines that have no such device only",
    ),
    Option("list", "L", "", "tell what another server exports", _GENERAL),
    Option(
        "snapshot", "s", "", "write to a temporary overlay instead of FILE", _IMAGE,
    ),
    Option("load-snapshot", "l", "SNAPSHOT", "export an internal snapshot: its id or name, or "
           "snapshot.id=ID,snapshot.name=NAME; implies -r", _IMAGE),
    Option("nocache", "n", "", "as --cache=none", _IMAGE, "differs", "a hint that changes nothing"),
    Option(
        "cache", "", "MODE", "none, writeback (default), writethrough, directsync or unsafe",
        _IMAGE, "differs",
        "writethrough and directsync flush after each write; the others change nothing",
    ),
    Option(
        "aio", "", "MODE", "threads, native or io_uring", _IMAGE, "differs",
        "checked, and a hint that changes nothing",
    ),
    Option("discard", "", "MODE", "ignore (default) or unmap", _IMAGE),
    Option("detect-zeroes", "", "MODE", "off (default), on or unmap", _IMAGE),
    Option("shared", "e", "NUMBER", "clients at a time (default 1; 0 is no limit)", _CONNECTION),
    Option(
        "format", "f", "FORMAT", "format of the image; without it, it is guessed", _IMAGE,
        "differs", "raw, qcow2, file, host_device, nbd, null-co, null-aio, blkdebug, throttle, "
        "copy-on-read, compress, preallocate, snapshot-access and copy-before-write",
    ),
    Option("persistent", "t", "", "do not end with the last client", _CONNECTION),
    Option(
        "verbose", "v", "", "stay in the foreground, and tell more", _CONNECTION, "differs",
        "reasons for which clients were left are told in our words",
    ),
    Option(
        "object", "", "TYPE,id=ID,...", "make an object: a secret, TLS credentials or an "
        "authorization", _GENERAL, "differs",
        "authz-list, authz-simple, iothread, secret, throttle-group, tls-creds-anon, "
        "tls-creds-psk, tls-creds-x509",
    ),
    Option("export-name", "x", "NAME", "name of the export (default is empty)", _CONNECTION),
    Option("description", "D", "TEXT", "text beside the export's name", _CONNECTION),
    Option("tls-creds", "", "ID", "speak TLS with these credentials", _GENERAL),
    Option("tls-hostname", "", "ID", "name in the certificate of the server, for -L", _GENERAL),
    Option("tls-authz", "", "ID", "let in whom this authorization allows", _GENERAL),
    Option("image-opts", "", "", "FILE is a set of options: key=value,...", _IMAGE),
    Option(
        "trace", "T", "[enable=]PATTERN", "trace events", _GENERAL, "differs",
        "accepted; there are no events to trace",
    ),
    Option("fork", "", "", "return once the server is ready", _GENERAL),
    Option("pid-file", "", "PATH", "write the number of the server's process there", _GENERAL),
    Option(
        "selinux-label", "", "LABEL", "label of the listening socket", _GENERAL, "differs",
        "tried on machines without SELinux only",
    ),
    Option(
        "handshake-limit", "", "SECONDS", "how long a client may take to choose an export "
        "(default 10; 0 is no limit)", _CONNECTION, "same", "since 10.0; 7.2 has no such option",
    ),
)  # fmt: skip
