"""The options of ``nbexport-monitor``: what is read, and how the system emulator compares.

Source: qemu(1).
"""

from __future__ import annotations

from nbexport.cli.dropin.getopt import Option

_HINT = "accepted as a hint: there is no guest"

OPTIONS = (
    Option("h", "", "", "print this help", "Standard options", "differs", "in our words"),
    Option("help", "", "", "print this help", "Standard options", "differs", "in our words"),
    Option("version", "", "", "print the version", "Standard options", "differs",
           "the first line is QEMU's, with our name in the brackets"),
    Option("machine", "", "TYPE", "none, pc or q35", "Standard options", "differs",
           "the types none, pc and q35, these with -nodefaults; properties are hints"),
    Option("M", "", "TYPE", "as -machine", "Standard options", "differs", "as -machine"),
    Option("nodefaults", "", "", "make no devices that were not asked for", "Standard options"),
    Option("no-user-config", "", "", "read no files with options of the user", "Standard options"),
    Option("S", "", "", "begin with the machine stopped", "Standard options"),
    Option("blockdev", "", "OPTIONS", "open a block node", "Block devices", "differs",
           "drivers raw, qcow2, file, nbd, null-co, null-aio, blkdebug, throttle, copy-on-read, "
           "compress, preallocate, snapshot-access and copy-before-write"),
    Option("drive", "", "OPTIONS", "open a disk that query-block lists", "Block devices", "differs",
           "if=none, virtio and ide; without copy-on-read"),
    Option("snapshot", "", "", "write to temporary files above drives", "Block devices"),
    *(
        Option(name, "", "FILE", f"a disk at IDE's place {place}", "Block devices", "differs",
               "as -drive, and so is a name alone")
        for place, name in enumerate(("hda", "hdb", "hdc", "hdd"))
    ),
    Option("cdrom", "", "FILE", "a medium in a CD-ROM drive at place 2", "Block devices", "differs",
           "as -drive"),
    Option("device", "", "OPTIONS", "plug a device in", "Block devices", "differs",
           "virtio-blk, virtio-scsi, scsi-hd, scsi-cd, ide-hd and ide-cd: what holds a disk, "
           "which no guest sees"),
    Option("object", "", "OPTIONS", "make an object", "Generic objects", "differs",
           "authz-list, authz-simple, iothread, secret, throttle-group, tls-creds-anon, -psk and "
           "-x509"),
    Option("chardev", "", "OPTIONS", "open a character device", "Character devices", "differs",
           "socket (unix, TCP, fd), stdio and null; without TLS, telnet, websocket, log and mux"),
    Option("mon", "", "OPTIONS", "put a monitor on a character device", "Debug", "differs",
           "a monitor for humans has the commands that disks need"),
    Option("qmp", "", "DEVICE", "a QMP monitor at a character device", "Debug", "differs",
           "stdio, unix:, tcp:, null and chardev:"),
    Option("qmp-pretty", "", "DEVICE", "the same, over several lines", "Debug", "differs",
           "as -qmp"),
    Option("monitor", "", "DEVICE", "a monitor for humans", "Debug", "differs",
           "stdio, unix:, tcp:, none, null and chardev:; it has the commands that disks need"),
    Option("compat", "", "POLICY", "what is done about deprecated interfaces", "Generic objects"),
    Option("pidfile", "", "FILE", "write the process's id while it runs", "Debug"),
    Option("daemonize", "", "", "go into the background once all is there", "Standard options"),
    Option("display", "", "TYPE", "none", "Display", "differs", "none only"),
    Option("nographic", "", "", "no display", "Display", "differs",
           "with -nodefaults; without, a monitor for humans would be on standard input"),
    Option("qtest", "", "DEVICE", "answers that no command of its protocol is known", "Debug",
           "differs", "there is no clock and no memory to be driven"),
    *(
        Option(name, "", value, _HINT, "Hints", "differs", _HINT)
        for name, value in (
            ("accel", "NAME"), ("boot", "OPTIONS"), ("cpu", "MODEL"), ("enable-kvm", ""),
            ("m", "SIZE"), ("msg", "OPTIONS"), ("name", "NAME"), ("net", "OPTIONS"),
            ("nic", "OPTIONS"), ("no-acpi", ""), ("no-hpet", ""), ("no-reboot", ""),
            ("no-shutdown", ""), ("overcommit", "OPTIONS"), ("parallel", "DEVICE"),
            ("qtest-log", "FILE"), ("rtc", "OPTIONS"), ("sandbox", "OPTIONS"),
            ("serial", "DEVICE"), ("smp", "NUMBER"), ("trace", "OPTIONS"), ("uuid", "UUID"),
            ("vga", "TYPE"), ("action", "OPTIONS"),
        )
    ),
    *(
        Option(name, "", value, "", "", "refused", "devices, guests and migration are not emulated")
        for name, value in (
            ("acpitable", "X"), ("add-fd", "X"), ("append", "X"), ("async-teardown", ""),
            ("audio", "X"), ("audio-help", ""), ("audiodev", "X"), ("bios", "X"),
            ("chroot", "X"), ("d", "X"), ("D", "X"), ("debugcon", "X"),
            ("dfilter", "X"), ("dtb", "X"), ("dump-vmstate", "X"), ("echr", "X"),
            ("enable-sync-profile", ""), ("fda", "X"), ("fdb", "X"), ("fsdev", "X"),
            ("full-screen", ""), ("fw_cfg", "X"), ("g", "X"), ("gdb", "X"), ("global", "X"),
            ("icount", "X"),
            ("incoming", "X"), ("initrd", "X"), ("iscsi", "X"), ("k", "X"), ("kernel", "X"),
            ("L", "X"), ("loadvm", "X"), ("mem-path", "X"), ("mem-prealloc", ""),
            ("mtdblock", "X"), ("netdev", "X"), ("no-fd-bootchk", ""), ("numa", "X"),
            ("only-migratable", ""), ("option-rom", "X"), ("pflash", "X"), ("plugin", "X"),
            ("portrait", ""), ("preconfig", ""), ("readconfig", "X"), ("rotate", "X"),
            ("runas", "X"), ("s", ""), ("sd", "X"), ("seed", "X"), ("semihosting", ""),
            ("set", "X"), ("singlestep", ""), ("smbios", "X"), ("spice", "X"),
            ("tpmdev", "X"), ("usb", ""), ("usbdevice", "X"), ("virtfs", "X"), ("vnc", "X"),
            ("watchdog", "X"), ("watchdog-action", "X"), ("win2k-hack", ""),
            ("writeconfig", "X"), ("xen-attach", ""), ("xen-domid", "X"),
            ("xen-domid-restrict", ""),
        )
    ),
)  # fmt: skip
"""The options; a name is written after one dash or two."""

BY_NAME = {option.name: option for option in OPTIONS}
