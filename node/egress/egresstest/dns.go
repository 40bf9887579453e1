// Package egresstest is a name server for tests of what commands reach.
package egresstest

import (
	"context"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/net/dns/dnsmessage"
)

// Lookup returns the addresses of a name, which has no dot at its end; none means
// that there is no such name. It is called once for each question, of which a
// lookup asks two: for IPv6 addresses (v6) and for IPv4 ones.
type Lookup func(name string, v6 bool) []netip.Addr

// Names answers from a table.
func Names(table map[string]string) Lookup {
	return func(name string, _ bool) []netip.Addr {
		var all []netip.Addr
		for s := range strings.FieldsSeq(table[name]) {
			all = append(all, netip.MustParseAddr(s))
		}
		return all
	}
}

// Resolver runs a name server on loopback until the test ends, and returns what
// asks it and nobody else.
func Resolver(t *testing.T, lookup Lookup) *net.Resolver {
	t.Helper()
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	require.NoError(t, err)
	var server sync.WaitGroup
	server.Go(func() {
		buf := make([]byte, 512)
		for {
			n, from, err := conn.ReadFrom(buf)
			if err != nil {
				return
			}
			if reply, err := answer(buf[:n], lookup); err == nil {
				_, _ = conn.WriteTo(reply, from)
			}
		}
	})
	t.Cleanup(func() {
		_ = conn.Close()
		server.Wait()
	})
	at := conn.LocalAddr().String()
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "udp", at)
	}}
}

func answer(query []byte, lookup Lookup) ([]byte, error) {
	var m dnsmessage.Message
	if err := m.Unpack(query); err != nil || len(m.Questions) != 1 {
		return nil, err
	}
	q := m.Questions[0]
	m.Response, m.RecursionAvailable, m.Additionals = true, true, nil
	found := lookup(strings.TrimSuffix(q.Name.String(), "."), q.Type == dnsmessage.TypeAAAA)
	if len(found) == 0 {
		m.RCode = dnsmessage.RCodeNameError
	}
	for _, addr := range found {
		h := dnsmessage.ResourceHeader{Name: q.Name, Type: q.Type, Class: q.Class, TTL: 1}
		switch {
		case q.Type == dnsmessage.TypeA && addr.Is4():
			m.Answers = append(m.Answers, dnsmessage.Resource{Header: h, Body: &dnsmessage.AResource{A: addr.As4()}})
		case q.Type == dnsmessage.TypeAAAA && addr.Is6():
			m.Answers = append(m.Answers, dnsmessage.Resource{Header: h, Body: &dnsmessage.AAAAResource{AAAA: addr.As16()}})
		}
	}
	return m.Pack()
}
