package sandbox

import (
	"errors"
	"fmt"
	"net"
	"os"
)

// egressEnv is what programs know a proxy by. The names in small letters are curl's
// and git's, the others those of nearly everybody else; Node.js takes them only when
// it is told to. What is in the sandbox itself needs no proxy.
var egressEnv = []string{
	"http_proxy=http://" + EgressAddr, "https_proxy=http://" + EgressAddr, "all_proxy=http://" + EgressAddr,
	"HTTP_PROXY=http://" + EgressAddr, "HTTPS_PROXY=http://" + EgressAddr, "ALL_PROXY=http://" + EgressAddr,
	"no_proxy=localhost,127.0.0.1,::1", "NO_PROXY=localhost,127.0.0.1,::1",
	"NODE_USE_ENV_PROXY=1",
}

// listens reports whether the command itself is to start with a listener: in a
// sandbox that is kept, process 1 has one.
func (s *Spec) listens() bool { return s.Egress != nil && s.agent == nil }

// outlet is the way out of one sandbox, served. nil is none.
type outlet struct {
	listener net.Listener
	done     chan struct{}
}

// openOutlet takes fd, a listener that was made inside before any command. close
// ends it.
func openOutlet(egress Egress, fd int) (*outlet, error) {
	f := os.NewFile(uintptr(fd), "egress")
	l, err := net.FileListener(f)
	if err := errors.Join(err, f.Close()); err != nil {
		return nil, fmt.Errorf("use the listener of a sandbox: %w", err)
	}
	o := &outlet{listener: l, done: make(chan struct{})}
	go func() {
		defer close(o.done)
		egress.Serve(l)
	}()
	return o, nil
}

// close returns when nothing is left of what went through.
func (o *outlet) close() {
	if o == nil {
		return
	}
	_ = o.listener.Close()
	<-o.done
}
