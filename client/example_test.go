package client_test

import (
	"context"
	"fmt"
	"log"
	"os"

	"github.com/wsmesh/wsmesh/client"
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
