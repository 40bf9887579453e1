// Package client is what a Go program imports to use a mesh: its workspaces'
// files, and commands run in them.
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
// # Errors
//
// Every error of the mesh is a *mesh.Error with one of a closed set of codes,
// found with errors.As, and answers errors.Is for fs.ErrNotExist, fs.ErrExist,
// fs.ErrPermission, context.DeadlineExceeded and context.Canceled. A command
// that ran and failed is an *ExitError instead. CodeLost means that the outcome
// is unknown.
//
// # Time
//
// A call goes on trying until its context ends, or for Config.Wait when the
// context has no deadline. Cmd.Timeout is the other kind of time: how long the
// command may live.
//
// # Concurrency
//
// A Client and its Workspaces may be used by any number of goroutines; a Cmd by
// one at a time, except Signal.
package client
