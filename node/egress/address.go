package egress

import (
	"net"
	"net/netip"
	"slices"
	"strconv"

	"github.com/wsmesh/wsmesh/mesh"
)

// special are the ranges of the IANA special-purpose registries that lie where
// public addresses do, and addresses at which clouds answer their machines about
// themselves. Outside of 2000::/3 no IPv6 address is public: with that go loopback,
// link-local, unique local (fd00:ec2::254 among them) and multicast addresses, and
// the forms that carry an IPv4 address (::ffff:0:0/96, 64:ff9b::/96, 64:ff9b:1::/48).
var special = prefixes(
	"0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12",
	"192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15",
	"198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4",
	"168.63.129.16/32", // Azure
	"2001::/23",        // Teredo, ORCHID and other protocols'
	"2001:db8::/32", "2002::/16", "3fff::/20",
)

var globalIPv6 = netip.MustParsePrefix("2000::/3")

func prefixes(all ...string) []netip.Prefix {
	var list []netip.Prefix
	for _, s := range all {
		list = append(list, netip.MustParsePrefix(s))
	}
	return list
}

// public reports whether an address is one of the public network. It takes no IPv4
// address in an IPv6 form.
func public(addr netip.Addr) bool {
	if !addr.IsValid() || addr.Zone() != "" || addr.Is6() && !globalIPv6.Contains(addr) {
		return false
	}
	return !slices.ContainsFunc(special, func(p netip.Prefix) bool { return p.Contains(addr) })
}

// ofThisMachine reports whether an address is one of an interface here.
func ofThisMachine(addr netip.Addr) bool {
	all, err := net.InterfaceAddrs()
	if err != nil {
		return true // unknown is no reason to let it pass
	}
	return slices.ContainsFunc(all, func(a net.Addr) bool {
		p, err := netip.ParsePrefix(a.String())
		return err == nil && p.Addr().Unmap().WithZone("") == addr
	})
}

// Exception is a range of addresses that may be reached although they are not
// public, at all ports or at one.
type Exception struct {
	prefix netip.Prefix
	port   uint16 // 0: all
}

// ParseException reads an address or a range as ADDRESS/BITS, and :PORT if it is
// meant for one port; with a port an IPv6 one stands in brackets. Anything else is
// CodeInvalid.
func ParseException(s string) (Exception, error) {
	bad := mesh.Errorf(mesh.CodeInvalid, "network exception %.60q is not an address or a range such as 10.1.0.0/16, and :PORT if need be", s)
	text, digits := s, ""
	if _, err := parsePrefix(s); err != nil {
		text, digits = splitPort(s)
	}
	prefix, err := parsePrefix(text)
	if err != nil {
		return Exception{}, bad
	}
	e := Exception{prefix: prefix}
	if digits != "" {
		if e.port, err = parsePort(digits[1:]); err != nil {
			return Exception{}, bad
		}
	}
	return e, nil
}

func parsePrefix(s string) (netip.Prefix, error) {
	if addr, err := netip.ParseAddr(s); err == nil && addr.Zone() == "" && !addr.Is4In6() {
		return netip.PrefixFrom(addr, addr.BitLen()), nil
	}
	p, err := netip.ParsePrefix(s)
	if err == nil && p.Addr().Is4In6() {
		err = strconv.ErrSyntax
	}
	return p.Masked(), err
}

func (e Exception) covers(to netip.AddrPort) bool {
	return e.prefix.Contains(to.Addr()) && (e.port == 0 || e.port == to.Port())
}
