// Package client is what a Go program imports to use a mesh: its workspaces'
// files, commands run in them, and the tenant's memory. A Client is one tenant's connection; what it is
// told was done has been done, and survives the client.
//
// # A first program
//
// Start a mesh in another terminal with make dev, which says where it keeps its
// data; the program finds it there.
//
//	package main
//
//	import (
//		"context"
//		"fmt"
//		"log"
//
//		"github.com/wsmesh/wsmesh/client"
//	)
//
//	func main() {
//		ctx := context.Background()
//		c, err := client.FromEnv(ctx)
//		if err != nil {
//			log.Fatal(err)
//		}
//		defer c.Close()
//		ws := c.Workspace("hello")
//		if err := ws.WriteFile(ctx, "greeting.txt", []byte("hello, mesh\n"), 0o644); err != nil {
//			log.Fatal(err)
//		}
//		out, err := ws.Command(ctx, "wc", "-c", "greeting.txt").Output()
//		if err != nil {
//			log.Fatal(err)
//		}
//		fmt.Print(string(out))
//	}
//
// It prints "12 greeting.txt".
//
// # Files
//
// A Workspace is a handle that costs nothing. ReadFile, WriteFile, ReadDir, Stat,
// MkdirAll, Remove, Rename, Copy, Chmod, Symlink and Touch are as in package os,
// with a context. A file changes whole: who reads sees the old content or the new.
// Names are bytes; paths and links never lead out of the scope (CodeDenied).
//
// IfMatch and CreateOnly make a change depend on what is there, decided in one step
// with it: read with ReadFileInfo, write with IfMatch of the Revision, and on
// CodeConflict begin again. So no writer overwrites what it has not seen. Edit changes
// pieces of a file as it is then, and needs neither.
//
// FS is the same tree as an io/fs file system.
//
// # Search
//
// Search finds names by globs, Grep lines by a regular expression, both on the
// node: only what is found travels. They yield page after page; SearchPage and
// GrepPage give one page and the cursor of the next.
//
// # Large content
//
// Put and Get move one file of any size, PutDir and GetDir a directory as a tar
// stream, in constant memory with several parts of 512 KiB in flight. Nothing is
// changed before all of the content has arrived on the node. A file that is
// replaced while it is read, and a workspace that gets another owner in the middle
// of a transfer, are CodeConflict: start over. ReadFile and WriteFile do it themselves.
//
// # Commands
//
// A Cmd mirrors os/exec. Its output is a log in the mesh: a client that loses its
// connection goes on where it was. A command that is given an ID starts at most
// once, however often it is asked for. When the context of a Cmd ends, or a writer
// of its output fails, every process of the command is asked to end, with SIGTERM,
// and killed after two seconds; Cancel and WaitDelay are as in os/exec. Cmd.Signal
// with KILL does not wait. Detach leaves the command running.
//
// Any client of the tenant finds a command by its ID: Attach follows its output,
// from any offset, after the client that started it, a gateway or the node has gone;
// Signal reaches it; WaitAny waits for the first of several to end; Running and
// Execs list those that run, and those whose logs are kept. An Exec that is closed
// leaves its command alone.
//
// Standard input is passed on at the command's pace, over broken connections too,
// and stays open when its client is gone: WriteStdin adds to it from anywhere,
// CloseStdin ends it. With Cmd.Terminal the command has a terminal, as with a person at
// it: output is what it shows, input is what is typed, and Resize changes its size.
//
// # Memory
//
// A Memory is values by key, of the tenant and not of a workspace: Put, Get,
// Create, Update of a revision, Delete, List, Watch, and Commit of many keys, all or
// none. Values can have an end of life (TTL). No read, listing or refusal is older
// than the last change that anybody was told of. A change is made once: a node
// finds out whether an earlier try of it was done.
//
// # Snapshots
//
// CreateSnapshot names what the files are, while commands run; Snapshots, Diff, Restore and
// RemoveSnapshot do what they say. At shows what the files were: of a snapshot, of a commit
// of History, or at a time; it is a Workspace that can be read only, and its FS is the same
// tree for ever. Client.Fork makes another workspace of it, without copying anything.
//
// # Scopes
//
// Scope narrows a workspace to a directory, for files and for commands; scopes
// nest and never widen. Each may add environment variables for the commands below
// it: the inner value wins, Cmd.Env wins over all, and a bare NAME in Cmd.Env takes
// a variable away.
//
// # Network
//
// Cmd.Net asks for a network for one command, WorkspaceConfig.Net for all of a
// workspace: none, full, or allow: and hosts. Neither is more than the operator
// grants; asking for more is CodeDenied. What a command had is Final.Net, which hosts
// were refused to it Final.Refused, and NetworkHint puts it into words.
//
// # Errors
//
// Every error of the mesh is a *mesh.Error with one of a closed set of codes,
// found with errors.As or mesh.CodeOf, and answers errors.Is for fs.ErrNotExist,
// fs.ErrExist, fs.ErrPermission, fs.ErrInvalid, errors.ErrUnsupported,
// context.DeadlineExceeded and context.Canceled. Errors about files are wrapped in
// an *fs.PathError, or an *os.LinkError where there are two names, with the paths
// as they were given. A command that ran and failed is an *ExitError instead.
//
// What is safe to repeat is repeated for you: a busy node, a workspace on its way to
// another node, a lost connection. CodeLost is what is left: a change was sent, no
// answer came, and whether it happened is unknown; look before you repeat it.
//
// # Time
//
// A call goes on trying until its context ends, or for Config.Wait when the
// context has no deadline; RemoveAll, Copy, and the end of Put and PutDir may take
// ten minutes, because the node's work grows with the content. A context that ends
// gives a call up: the node may still finish it. How long one waits for a command is
// Cmd.Patience, or the context of Exec.Wait; how long it may live is Cmd.Timeout.
//
// # A log of operations
//
// Config.Log gets a record of every operation once, when it is over: what it was, of
// which path or command, how long it took and how it ended. The standard log is that
// of slog.LevelInfo, which has what changes something; slog.LevelDebug is the verbose
// one, which has every reading too:
//
//	handler := slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug})
//	c, err := client.Dial(ctx, client.Config{URL: url, Token: token, Log: slog.New(handler)})
//
// # Many tenants
//
// A Pool keeps one Client for each tenant or token that a program serves, closes
// those that rest, and does not ask twice whether a token that was refused is good. A
// Client is one connection, which everything that it does shares; it comes back by
// itself when it breaks, and OnStatus says how it is.
//
// # Concurrency
//
// A Client, its Workspaces and its Memories may be used by any number of goroutines; a Cmd by
// one at a time, except Signal. Each Put, Get, PutDir and GetDir holds about 2 MiB
// while it runs.
package client
