package client_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log"
	"os"
	"strings"
	"time"

	"github.com/wsmesh/wsmesh/client"
	"github.com/wsmesh/wsmesh/mesh"
	"github.com/wsmesh/wsmesh/node/onebox"
)

// The program of the package documentation, with a mesh of its own. Here the
// command runs without isolation, by name, so that the example runs anywhere.
func Example() {
	ctx := context.Background()
	dir, err := os.MkdirTemp("", "wsmesh")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	box, err := onebox.Start(ctx, onebox.Config{Data: dir, Isolation: "none"})
	if err != nil {
		log.Fatal(err)
	}
	defer box.Close()

	c, err := client.Dial(ctx, box.Client())
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	ws := c.Workspace("hello")
	if err := ws.WriteFile(ctx, "greeting.txt", []byte("hello, mesh\n"), 0o644); err != nil {
		log.Fatal(err)
	}
	out, err := ws.Command(ctx, "wc", "-c", "greeting.txt").Output()
	if err != nil {
		log.Fatal(err)
	}
	fmt.Print(string(out))
	// Output: 12 greeting.txt
}

// exampleClient gives f a client of a mesh of its own.
func exampleClient(f func(ctx context.Context, c *client.Client) error) {
	ctx := context.Background()
	dir, err := os.MkdirTemp("", "wsmesh")
	check(err)
	defer os.RemoveAll(dir)
	box, err := onebox.Start(ctx, onebox.Config{Data: dir, Isolation: "none"})
	check(err)
	defer box.Close()
	c, err := client.Dial(ctx, box.Client())
	check(err)
	defer c.Close()
	check(f(ctx, c))
}

// example gives f a workspace with the files of a small project.
func example(f func(ctx context.Context, ws *client.Workspace) error) {
	exampleClient(func(ctx context.Context, c *client.Client) error {
		ws := c.Workspace("demo")
		check(ws.WriteFile(ctx, "README.md", []byte("# demo\n"), 0))
		check(ws.WriteFile(ctx, "src/main.go", []byte("package main\n\nfunc main() { greet() }\n"), 0))
		check(ws.WriteFile(ctx, "src/greet.go", []byte("package main\n\nfunc greet() {}\n"), 0))
		return f(ctx, ws)
	})
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

func ExampleWorkspace_WriteFile() {
	example(func(ctx context.Context, ws *client.Workspace) error {
		if err := ws.WriteFile(ctx, "notes/today.txt", []byte("buy milk\n"), 0o644); err != nil {
			return err
		}
		b, err := ws.ReadFile(ctx, "notes/today.txt")
		fmt.Print(string(b))
		_, missing := ws.ReadFile(ctx, "notes/tomorrow.txt")
		fmt.Println(errors.Is(missing, fs.ErrNotExist))
		return err
	})
	// Output:
	// buy milk
	// true
}

func ExampleWorkspace_ReadDir() {
	example(func(ctx context.Context, ws *client.Workspace) error {
		for e, err := range ws.ReadDir(ctx, "src") {
			if err != nil {
				return err
			}
			fmt.Println(e.Type, e.Path, e.Size)
		}
		return nil
	})
	// Output:
	// file greet.go 30
	// file main.go 38
}

// Put and Get move content of any size in constant memory.
func ExampleWorkspace_Put() {
	example(func(ctx context.Context, ws *client.Workspace) error {
		in := strings.NewReader(strings.Repeat("0123456789", 1e6))
		if err := ws.Put(ctx, "data/large", in, 0o600); err != nil {
			return err
		}
		var out bytes.Buffer
		err := ws.Get(ctx, "data/large", &out)
		fmt.Println(out.Len())
		return err
	})
	// Output: 10000000
}

// A scope for each user of an agent: files and commands stay in its directory.
func ExampleWorkspace_Scope() {
	example(func(ctx context.Context, ws *client.Workspace) error {
		user := ws.Scope("users/u1", client.Env{"LOCALE": "de", "TIER": "free"})
		if err := user.WriteFile(ctx, "todo.txt", []byte("1\n"), 0); err != nil {
			return err
		}
		out, err := user.Scope("jobs", client.Env{"TIER": "paid"}).Command(ctx, "sh", "-c", "echo $LOCALE $TIER").Output()
		fmt.Print(string(out))
		_, denied := user.ReadFile(ctx, "../../README.md")
		fmt.Println(mesh.CodeOf(denied))
		return err
	})
	// Output:
	// de paid
	// denied
}

func ExampleWorkspace_FS() {
	example(func(ctx context.Context, ws *client.Workspace) error {
		return fs.WalkDir(ws.FS(ctx), ".", func(path string, d fs.DirEntry, err error) error {
			if err == nil && !d.IsDir() {
				fmt.Println(path)
			}
			return err
		})
	})
	// Output:
	// README.md
	// src/greet.go
	// src/main.go
}

func ExampleWorkspace_Search() {
	example(func(ctx context.Context, ws *client.Workspace) error {
		req := mesh.SearchRequest{Selection: mesh.Selection{Globs: []mesh.Path{"*.go"}}}
		for e, err := range ws.Search(ctx, req) {
			if err != nil {
				return err
			}
			fmt.Println(e.Path)
		}
		return nil
	})
	// Output:
	// src/greet.go
	// src/main.go
}

func ExampleWorkspace_Grep() {
	example(func(ctx context.Context, ws *client.Workspace) error {
		for m, err := range ws.Grep(ctx, mesh.GrepRequest{Pattern: `func \w+`}) {
			if err != nil {
				return err
			}
			fmt.Printf("%s:%d: %s\n", m.Path, m.Line, m.Text)
		}
		return nil
	})
	// Output:
	// src/greet.go:3: func greet() {}
	// src/main.go:3: func main() { greet() }
}

func ExampleWorkspace_Copy() {
	example(func(ctx context.Context, ws *client.Workspace) error {
		if err := ws.Copy(ctx, "src", "backup/src"); err != nil {
			return err
		}
		b, err := ws.ReadFile(ctx, "backup/src/greet.go")
		fmt.Print(string(b))
		return err
	})
	// Output:
	// package main
	//
	// func greet() {}
}

// Output arrives while the command runs.
func ExampleWorkspace_Command() {
	example(func(ctx context.Context, ws *client.Workspace) error {
		cmd := ws.Command(ctx, "sh", "-c", "cat; ls $WHAT")
		cmd.Dir = "src"
		cmd.Env = []string{"WHAT=main.go"}
		cmd.Stdin = strings.NewReader("the files:\n")
		cmd.Stdout = os.Stdout
		return cmd.Run()
	})
	// Output:
	// the files:
	// main.go
}

// A command that ran and failed is not an error of the mesh.
func ExampleCmd_Output() {
	example(func(ctx context.Context, ws *client.Workspace) error {
		_, err := ws.Command(ctx, "sh", "-c", "echo no such test >&2; exit 3").Output()
		if exit, ok := errors.AsType[*client.ExitError](err); ok {
			fmt.Printf("exit %d: %s", exit.Code, exit.Stderr)
			return nil
		}
		return err
	})
	// Output: exit 3: no such test
}

func ExampleClient_Memory() {
	exampleClient(func(ctx context.Context, c *client.Client) error {
		m := c.Memory("agent-7")
		rev, err := m.Put(ctx, "user/name", []byte("Ada"), client.TTL(24*time.Hour))
		if err != nil {
			return err
		}
		if _, err := m.Update(ctx, "user/name", []byte("Ada Lovelace"), rev); err != nil {
			return err
		}
		_, err = m.Create(ctx, "user/name", []byte("Bob"))
		fmt.Println(errors.Is(err, fs.ErrExist))
		e, err := m.Get(ctx, "user/name")
		fmt.Println(string(e.Value))
		return err
	})
	// Output:
	// true
	// Ada Lovelace
}

// Two keys change together or not at all, and only if one of them is as it was
// read.
func ExampleMemory_Commit() {
	exampleClient(func(ctx context.Context, c *client.Client) error {
		m := c.Memory("tasks")
		rev, err := m.Put(ctx, "open/42", []byte("write the report"))
		if err != nil {
			return err
		}
		_, err = m.Commit(ctx,
			client.MemoryOp{Key: "open/42", Delete: true}.With(client.IfRevision(rev)),
			client.MemoryOp{Key: "done/42", Value: []byte("write the report")})
		if err != nil {
			return err
		}
		for e, err := range m.List(ctx, "") {
			if err != nil {
				return err
			}
			fmt.Println(e.Key)
		}
		return nil
	})
	// Output: done/42
}
