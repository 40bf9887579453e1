package egress

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/wsmesh/wsmesh/mesh"
)

func parsed(t require.TestingT, s string) Policy {
	p, err := Parse(s)
	require.NoError(t, err, s)
	return p
}

func TestParse(t *testing.T) {
	for given, want := range map[string]string{
		"none":                                      "none",
		"full":                                      "full",
		"allow:example.org":                         "allow:example.org",
		"allow:EXAMPLE.org.":                        "allow:example.org",
		"allow: b.org , a.org":                      "allow:a.org,b.org",
		"allow:example.org:80,example.org:443":      "allow:example.org",
		"allow:example.org:443":                     "allow:example.org:443",
		"allow:example.org:8443,example.org":        "allow:example.org,example.org:8443",
		"allow:*.Example.org":                       "allow:*.example.org",
		"allow:*.example.org,a.example.org,x.org:1": "allow:*.example.org,x.org:1",
		"allow:*,example.org,10.0.0.1":              "allow:*,10.0.0.1",
		"allow:bücher.example":                      "allow:xn--bcher-kva.example",
		"allow:192.0.2.1":                           "allow:192.0.2.1",
		"allow:192.0.2.1:22":                        "allow:192.0.2.1:22",
		"allow:2001:DB8::0:1":                       "allow:2001:db8::1",
		"allow:[2001:db8::1]:22":                    "allow:[2001:db8::1]:22",
		"allow:[2001:db8::1]":                       "allow:2001:db8::1",
		"allow:_dmarc.example.org":                  "allow:_dmarc.example.org",
	} {
		require.Equal(t, want, parsed(t, given).String(), given)
		require.Equal(t, want, parsed(t, want).String(), want)
	}
	for _, given := range []string{
		"", "some", "Full", "allow", "allow:", "allow:,", "allow:a.org,", "allow:a..org", "allow:.org", "allow:*.",
		"allow:a*.org", "allow:*a.org", "allow:*.*.org", "allow:https://a.org", "allow:a.org/x", "allow:user@a.org",
		"allow:a.org:", "allow:a.org:0", "allow:a.org:65536", "allow:a.org:+1", "allow:a.org:080", "allow:a.org:80:80",
		"allow:127.1", "allow:2130706433", "allow:0x7f000001", "allow:0x7f.0.0.1", "allow:１２７.0.0.1", "allow:*.127.0.0.1",
		"allow:::ffff:10.0.0.1", "allow:fe80::1%eth0", "allow:[a.org]:80", "allow:[127.0.0.1]:80", "allow:[::1", "allow:a b.org",
		"allow:-a.org", "allow:a-.org", "allow:" + strings.Repeat("a", 64) + ".org", "allow:" + strings.Repeat("a.", 127) + "org",
		"allow:a\x00.org", "allow:\xff.org", "allow:" + strings.Repeat("a.org:1,", 2*MaxHosts) + "b.org",
	} {
		_, err := Parse(given)
		require.Equal(t, mesh.CodeInvalid, mesh.CodeOf(err), given)
	}
}

func TestAnd(t *testing.T) {
	for _, c := range []struct{ a, b, both string }{
		{"full", "full", "full"},
		{"full", "allow:a.org", "allow:a.org"},
		{"full", "none", "none"},
		{"none", "allow:a.org", "none"},
		{"allow:a.org,b.org", "allow:b.org,c.org", "allow:b.org"},
		{"allow:a.org", "allow:b.org", "none"},
		{"allow:a.org", "allow:a.org:443", "allow:a.org:443"},
		{"allow:a.org", "allow:a.org:22", "none"},
		{"allow:*.a.org", "allow:a.org,b.a.org,x.b.a.org,ba.org", "allow:b.a.org,x.b.a.org"},
		{"allow:*.a.org", "allow:*.b.a.org:443", "allow:*.b.a.org:443"},
		{"allow:*", "allow:*.a.org,b.org:9,10.0.0.1", "allow:*.a.org"},
	} {
		a, b := parsed(t, c.a), parsed(t, c.b)
		require.Equal(t, c.both, a.And(b).String(), "%s and %s", c.a, c.b)
		require.Equal(t, c.both, b.And(a).String(), "%s and %s", c.b, c.a)
	}
}

var policies = rapid.Custom(func(t *rapid.T) Policy {
	word := rapid.SampledFrom([]string{"a.org", "*.a.org", "b.a.org", "*.b.a.org", "*", "b.org", "10.0.0.1", "[2001:db8::1]"})
	port := rapid.SampledFrom([]string{"", ":80", ":443", ":22"})
	words := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) string { return word.Draw(t, "name") + port.Draw(t, "port") }), 1, 5)
	switch kind := rapid.IntRange(0, 9).Draw(t, "kind"); kind {
	case 0:
		return None
	case 1:
		return Full
	}
	return parsed(t, "allow:"+strings.Join(words.Draw(t, "hosts"), ","))
})

// A policy is the set of what it allows: And and Within are what they are of sets.
func TestPoliciesAreSets(t *testing.T) {
	var all []host
	for _, name := range []string{"a.org", "b.a.org", "c.b.a.org", "xa.org", "b.org", "org", "10.0.0.1", "10.0.0.2", "2001:db8::1"} {
		for _, port := range []uint16{22, 80, 443, 8080} {
			all = append(all, host{name, port})
		}
	}
	allows := func(p Policy, h host) bool { return p.full || p.has(h) }
	rapid.Check(t, func(t *rapid.T) {
		p, q := policies.Draw(t, "p"), policies.Draw(t, "q")
		both := p.And(q)
		for _, h := range all {
			require.Equal(t, allows(p, h) && allows(q, h), allows(both, h), "%s in %s and %s: %s", h, p, q, both)
			require.False(t, p.Within(q) && allows(p, h) && !allows(q, h), "%s in %s, which is within %s", h, p, q)
		}
		require.True(t, both.Within(p) && both.Within(q), "%s of %s and %s", both, p, q)
		require.Equal(t, p.Within(q), both.String() == p.String(), "%s and %s", p, q)
		require.Equal(t, p, parsed(t, p.String()))
	})
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{"none", "full", "allow:a.org,*.b.org:22,[::1]:80,10.0.0.1", "allow:bücher.example"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		p, err := Parse(s)
		if err != nil {
			return
		}
		again := parsed(t, p.String())
		require.Equal(t, p, again)
		require.True(t, p.Within(again) && None.Within(p) && p.Within(Full))
		for _, h := range p.hosts {
			require.NotEmpty(t, h.name)
			require.NotZero(t, h.port)
		}
	})
}

func TestPublic(t *testing.T) {
	for _, s := range []string{"1.1.1.1", "8.8.8.8", "93.184.216.34", "172.32.0.1", "100.128.0.1", "2606:4700::1111", "2a00:1450::1"} {
		require.True(t, public(netip.MustParseAddr(s)), s)
	}
	for _, s := range []string{
		"0.0.0.0", "0.1.2.3", "10.0.0.1", "100.64.0.1", "100.100.100.200", "127.0.0.1", "127.255.255.254", "169.254.169.254",
		"172.16.0.1", "172.31.255.255", "192.0.0.170", "192.0.2.1", "192.168.1.1", "198.18.0.1", "203.0.113.1", "224.0.0.1",
		"239.255.255.255", "240.0.0.1", "255.255.255.255", "168.63.129.16",
		"::", "::1", "::7f00:1", "::ffff:127.0.0.1", "::ffff:8.8.8.8", "64:ff9b::7f00:1", "64:ff9b::808:808", "64:ff9b:1::1",
		"100::1", "2001::1", "2001:10::1", "2001:db8::1", "2002:7f00:1::1", "3fff::1", "5f00::1", "fc00::1", "fd00:ec2::254",
		"fe80::1", "fe80::1%eth0", "fec0::1", "ff02::1", "2606:4700::1111%eth0",
	} {
		require.False(t, public(netip.MustParseAddr(s)), s)
	}
}

func TestParseException(t *testing.T) {
	at := netip.MustParseAddrPort
	for given, covers := range map[string]string{
		"127.0.0.1": "127.0.0.1:1", "127.0.0.1:8080": "127.0.0.1:8080", "10.1.0.0/16": "10.1.2.3:80", "10.1.2.3/16:80": "10.1.9.9:80",
		"fd00::/8": "[fd12::1]:80", "[fd00::/8]:80": "[fd12::1]:80", "[::1]:9": "[::1]:9", "::1": "[::1]:9",
	} {
		e, err := ParseException(given)
		require.NoError(t, err, given)
		require.True(t, e.covers(at(covers)), given)
		require.False(t, e.covers(at("10.2.0.1:81")), given)
		require.Equal(t, e.port == 0, e.covers(netip.AddrPortFrom(at(covers).Addr(), 7)), given)
	}
	for _, given := range []string{
		"", "localhost", "localhost:80", "10.0.0.0/33", "10.0.0.1:0", "10.0.0.1:", "::ffff:10.0.0.1", "::ffff:10.0.0.0/112", "fe80::1%eth0", "*",
	} {
		_, err := ParseException(given)
		require.Equal(t, mesh.CodeInvalid, mesh.CodeOf(err), given)
	}
}
