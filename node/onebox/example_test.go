package onebox_test

import (
	"context"
	"fmt"
	"log"
	"os"
	"path/filepath"

	"github.com/wsmesh/wsmesh/client"
	"github.com/wsmesh/wsmesh/node/onebox"
)

// A mesh inside of a program, which keeps what was written from one run to the
// next.
func ExampleStart() {
	ctx := context.Background()
	data, err := os.MkdirTemp("", "wsmesh")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(data)
	for range 2 {
		box, err := onebox.Start(ctx, onebox.Config{Data: data})
		if err != nil {
			log.Fatal(err)
		}
		c, err := client.Dial(ctx, box.Client())
		if err != nil {
			log.Fatal(err)
		}
		ws := c.Workspace("notes")
		old, _ := ws.ReadFile(ctx, "log.txt") // none at first
		if err := ws.WriteFile(ctx, "log.txt", append(old, "a run\n"...), 0); err != nil {
			log.Fatal(err)
		}
		all, err := ws.ReadFile(ctx, "log.txt")
		if err != nil {
			log.Fatal(err)
		}
		fmt.Printf("%d bytes\n", len(all))
		c.Close()
		if err := box.Close(); err != nil {
			log.Fatal(err)
		}
	}
	// Output:
	// 6 bytes
	// 12 bytes
}

// An editor's project becomes a workspace, in which an agent works with it.
func ExampleBox_HostDir() {
	ctx := context.Background()
	home, err := os.UserHomeDir()
	if err != nil {
		log.Fatal(err)
	}
	box, err := onebox.Start(ctx, onebox.Config{Data: filepath.Join(home, ".local/share/wsmesh")})
	if err != nil {
		log.Fatal(err)
	}
	defer box.Close()
	if err := box.HostDir(ctx, "project", filepath.Join(home, "src/project")); err != nil {
		log.Fatal(err)
	}
	c, err := client.Dial(ctx, box.Client())
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	out, err := c.Workspace("project").Command(ctx, "git", "status", "--short").Output()
	if err != nil {
		log.Fatal(err)
	}
	fmt.Print(string(out))
}
