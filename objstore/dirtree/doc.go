// Package dirtree is a directory of this machine as the source and the target of
// a stored tree: Items yields what is there, with every attribute that
// objstore.Entry has, and Restore makes it again.
//
// Kept are files, directories, symbolic links and FIFOs; their permission bits
// with setuid, setgid and sticky, and times to the nanosecond; hard links between
// files; holes of files, as the file system tells them; and of files and
// directories the extended attributes user.*, POSIX access control lists and file
// capabilities. Not kept are owners, since who owns a tree is decided where it
// is restored, and sockets and devices, which have no content: Note is told of
// those.
//
// No link leads either of them out of the directory. Linux only: elsewhere Open
// fails with CodeUnsupported.
package dirtree
