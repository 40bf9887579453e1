package client

import (
	"slices"
	"sync"

	"github.com/nats-io/nats.go"
)

// Status is how a client's connection is.
type Status string

// States of a client. One that has been closed, by Close or because the server refuses its
// token, stays so; any other comes back by itself, for as long as it takes.
const (
	StatusConnecting   Status = "connecting"   // Dial is at it
	StatusConnected    Status = "connected"    //
	StatusReconnecting Status = "reconnecting" // calls wait for it, within their time
	StatusClosed       Status = "closed"       // for good
)

// Status is how the connection is right now.
func (c *Client) Status() Status {
	switch c.conn.Status() {
	case nats.CONNECTED, nats.DRAINING_SUBS, nats.DRAINING_PUBS:
		return StatusConnected
	case nats.CLOSED:
		return StatusClosed
	}
	return StatusReconnecting
}

// OnStatus has fn called with each change of the status from now on, until stop is
// called; Config.OnStatus hears those before, too. Calls are made one at a time, in
// order, and never twice in a row with the same status; each is to return soon and must
// not close the client, and a panic in it is dropped. StatusClosed is the last, and Close returns after it.
func (c *Client) OnStatus(fn func(Status)) (stop func()) { return c.notices.add(fn) }

// notices tell the status to who wants to know. The zero value works.
type notices struct {
	telling sync.Mutex // held while it is told; guards now
	now     Status

	mu  sync.Mutex
	fns []*func(Status)
}

func (n *notices) add(fn func(Status)) (stop func()) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.fns = append(n.fns, &fn)
	return func() {
		n.mu.Lock()
		defer n.mu.Unlock()
		n.fns = slices.DeleteFunc(n.fns, func(p *func(Status)) bool { return p == &fn })
	}
}

func (n *notices) tell(s Status) {
	n.telling.Lock()
	defer n.telling.Unlock()
	if n.now == s || n.now == StatusClosed {
		return
	}
	n.now = s
	n.mu.Lock()
	fns := slices.Clone(n.fns)
	n.mu.Unlock()
	for _, fn := range fns {
		n.call(*fn, s)
	}
}

func (n *notices) call(fn func(Status), s Status) {
	defer func() { _ = recover() }() // of a program's own function: the others are told all the same
	fn(s)
}
