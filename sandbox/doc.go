// Package sandbox runs one command inside one directory, and reads and writes
// files below one directory, for a tenant that is not trusted.
//
// A [Runner] starts commands. Its driver is chosen once, by a canary that ran
// in the full profile: bwrap (kernel isolation through bubblewrap), software
// (an own user id and limits, no kernel isolation) or none. software and none
// are used only when they are named; where the asked isolation is impossible
// nothing is started.
//
// What every driver guarantees: the command sees descriptors 0, 1 and 2 and no
// others; its environment is the defaults and [Spec].Env, nothing of ours; a
// command that cannot be found or run ends with 127 or 126 and a message on its
// own stderr, as under a shell; a sandbox that cannot be set up is an error and
// never a command's status; and the end of the command is the end of every
// process it started (for drivers software and none this needs a cgroup, hence
// root: without one a process that left the command's POSIX session survives).
//
// A command is ended by [Process.Stop]: SIGTERM to every process of it, time to
// clean up, SIGKILL. What is left of one that ended by itself is killed at once.
//
// With bwrap a network of its own may have one way out ([Egress]): a listener that was
// made inside, before any command, and that the caller answers for.
//
// What bwrap adds, as root: user and group of the tenant on the host before
// bubblewrap is even started, an own instance of every namespace, no
// capabilities, no further user namespaces, a system-call allow-list, a
// read-only system, and nothing of the host's files but that system and the one
// directory. An ordinary user gets the same walls but one host uid for all
// tenants, and resource limits per process instead of per command.
//
// Each command is held to its own limits (see Spec), and tenants have equal shares
// of the processors, however many processes they run. Result names every limit
// that was met, as far as the host says so (see Result.Limit).
//
// What no driver hides or bounds: a command reads in /proc/self/mountinfo where on
// its file system its directory lies (a path, below which it reaches nothing else);
// it writes to the disk as fast as the disk takes it; and what can be learnt from
// the time that shared processors and caches take. What the kernel counts for each
// user (inotify watches, memory of pipes, pending signals) is a tenant's own as
// root, and shared by all tenants for an ordinary user.
//
// Sandboxes of bwrap are kept: one for each tenant, directory, scope, network and way out,
// in which a small process 1 (package inside) forks the commands, each into cgroups
// and a Landlock domain of its own. So a command costs little more than a fork;
// /tmp and /dev/shm outlive it, its processes do not. A sandbox is given up when
// anything about it is odd, when a command ran out of memory, when its scratch
// files take too much, after some time without a command, and when another is
// wanted more. A node that is frozen for ten seconds loses its commands: its
// workspaces may have gone to another one. Where a sandbox cannot be kept each
// command gets one of its own.
//
// A command may have a [Terminal]: under bwrap one of its sandbox's own /dev/pts, made
// by us through a descriptor of it from before any command; process 1 makes it the
// controlling one. Such a command gets a sandbox with a process 1 of ours even where
// none is kept.
//
// [Guard] is a rail against accidents and no part of the isolation.
//
// A [Tree] is the host side of a workspace's directory, and a [View] is the Tree
// seen from one scope: it reads, writes, lists, searches, archives and extracts, while
// the tenant may change everything at the same time. Paths and links lead out of the
// scope neither by their spelling nor by a race, nothing but regular files and
// directories is opened, and what is made appears whole, in one step, with the
// tenant as its owner. The directory may be one that somebody works in on the host:
// [FindHostDir].
//
// Sandboxes, and commands without one that is kept, are forked by one
// operating-system thread that lives as long as the Runner. It has a mount namespace of its own, in which the tree of each of them
// is mounted at a short path that any uid may traverse, so that a tree works
// wherever it lies; and the kernel's parent-death signal, which follows the
// forking thread and not the process, cannot fire early.
package sandbox
