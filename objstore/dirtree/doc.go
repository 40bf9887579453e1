// Package dirtree is a directory of this machine as the source and the target of
// a stored tree: Items yields what is there, with every attribute that
// objstore.Entry has, and Restore makes it again.
//
// A Ledger is what a journal says that a directory holds. Changes compares the two
// and yields the ops that the journal does not have yet; it describes every name
// and reads only those that are described in another way than when they were last
// known. Where a Watcher hears of changes it describes only the names that those may
// have touched. An op is applied to the ledger, and so is each record when a journal is
// read: the tree is then restored whole from the ledger's Items, so the records
// need no directory to be replayed in.
//
// Kept are files, directories, symbolic links and FIFOs; their permission bits
// with setuid, setgid and sticky, and times to the nanosecond; hard links between
// files; holes of files, as the file system tells them; and of files and
// directories the extended attributes user.*, POSIX access control lists and file
// capabilities. Not kept are owners, since who owns a tree is decided where it
// is restored, and sockets and devices, which have no content: Note is told of
// those. What this process may not read, and what no op has room for, such as a file
// with tens of thousands of holes, is not kept either, and Changes tells of it: it
// keeps nothing else from being found.
//
// No link leads either of them out of the directory. Linux only: elsewhere Open
// fails with CodeUnsupported.
package dirtree
