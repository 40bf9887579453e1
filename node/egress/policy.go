package egress

import (
	"cmp"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"golang.org/x/net/idna"

	"github.com/wsmesh/wsmesh/mesh"
)

// MaxHosts bounds the hosts of a policy: each request is compared with all of them.
const MaxHosts = 256

// Words of a policy.
const (
	none  = "none"
	full  = "full"
	allow = "allow:"
)

// webPorts are those of a host that is named without one.
var webPorts = []uint16{80, 443}

// Policy says what may be reached. The zero value is none. It is not changed once
// it is made.
type Policy struct {
	full  bool
	hosts []host // sorted, none of them within another
}

// None and Full are the policies without a list.
var (
	None = Policy{}
	Full = Policy{full: true}
)

// host is a name at a port. The name is in lower case and ASCII: a domain name
// without a dot at its end, such a name after "*." for all names below it, "*" for
// all names, or an IP address as netip writes it, which only itself stands for.
type host struct {
	name string
	port uint16
}

// Parse reads none, full, or allow: and hosts with commas between them: NAME,
// *.NAME for all names below it, * for every public name, or an IP address, each
// followed by :PORT or meant at ports 80 and 443. Case and a dot at the end do not
// matter, and names in other scripts are taken as their ASCII form. Anything else
// is CodeInvalid.
func Parse(s string) (Policy, error) {
	switch s {
	case none:
		return None, nil
	case full:
		return Full, nil
	}
	list, ok := strings.CutPrefix(s, allow)
	if !ok {
		return None, mesh.Errorf(mesh.CodeInvalid, "network %.60q is not none, full or allow:HOST,…", s)
	}
	var p Policy
	for entry := range strings.SplitSeq(list, ",") {
		hosts, err := parseHost(strings.TrimSpace(entry))
		if err != nil {
			return None, err
		}
		if p.hosts = append(p.hosts, hosts...); len(p.hosts) > len(webPorts)*MaxHosts {
			return None, mesh.Errorf(mesh.CodeInvalid, "network: more than %d hosts", MaxHosts)
		}
	}
	p.hosts = tidy(p.hosts)
	return p, nil
}

func parseHost(entry string) ([]host, error) {
	name, digits := entry, ""
	if _, err := netip.ParseAddr(entry); err != nil { // an IPv6 address has colons of its own
		name, digits = splitPort(entry)
	}
	bad := mesh.Errorf(mesh.CodeInvalid, "network: %.100q is not a host: want NAME, *.NAME, * or an address, and :PORT if need be", entry)
	rest, wild := strings.CutPrefix(name, "*.")
	if name != "*" {
		var err error
		if rest, err = canonical(rest); err != nil || wild && isAddr(rest) {
			return nil, bad
		}
	}
	if wild {
		rest = "*." + rest
	}
	if digits == "" {
		return []host{{rest, webPorts[0]}, {rest, webPorts[1]}}, nil
	}
	port, err := parsePort(digits[1:])
	if err != nil {
		return nil, bad
	}
	return []host{{rest, port}}, nil
}

// splitPort cuts ":PORT" off, if there is one, and the brackets of an IPv6 address.
func splitPort(s string) (name, port string) {
	if end := strings.LastIndexByte(s, ']'); end > 0 && s[0] == '[' && strings.Contains(s[:end], ":") {
		if rest := s[end+1:]; rest == "" || rest[0] == ':' {
			return s[1:end], rest
		}
	}
	if i := strings.LastIndexByte(s, ':'); i >= 0 {
		return s[:i], s[i:]
	}
	return s, ""
}

func parsePort(digits string) (uint16, error) {
	n, err := strconv.ParseUint(digits, 10, 16)
	if err == nil && (n == 0 || digits[0] == '0' || digits[0] == '+') {
		err = strconv.ErrRange
	}
	return uint16(n), err
}

// canonical is the one spelling of a domain name or an address. What could be read
// as an address by somebody else is neither: 127.1, 0x7f.0.0.1, 2130706433.
func canonical(s string) (string, error) {
	bad := mesh.Errorf(mesh.CodeInvalid, "%.100q is no host", s)
	if addr, err := netip.ParseAddr(s); err == nil {
		if addr.Zone() != "" || addr.Is4In6() {
			return "", bad
		}
		return addr.String(), nil
	}
	if !utf8.ValidString(s) || len(s) > 1024 {
		return "", bad
	}
	name := strings.ToLower(s)
	if strings.IndexFunc(name, func(r rune) bool { return r >= utf8.RuneSelf }) >= 0 {
		ascii, err := idna.Lookup.ToASCII(name)
		if err != nil {
			return "", bad
		}
		name = ascii
	}
	name = strings.TrimSuffix(name, ".")
	if len(name) > 253 {
		return "", bad
	}
	last := ""
	for label := range strings.SplitSeq(name, ".") {
		if !validLabel(label) {
			return "", bad
		}
		last = label
	}
	if isNumber(last) {
		return "", bad
	}
	return name, nil
}

func validLabel(label string) bool {
	if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' {
		return false
	}
	for _, c := range []byte(label) {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' && c != '_' {
			return false
		}
	}
	return true
}

// isNumber reports whether the last label of a name makes it an IPv4 address for
// some programs: it consists of digits, or is a hexadecimal number.
func isNumber(label string) bool {
	digits, hex := strings.CutPrefix(label, "0x")
	for _, c := range []byte(digits) {
		if (c < '0' || c > '9') && (!hex || c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}

func isAddr(name string) bool {
	_, err := netip.ParseAddr(name)
	return err == nil
}

// within reports whether all that h stands for is in other as well.
func (h host) within(other host) bool {
	if h.port != other.port {
		return false
	}
	if h.name == other.name {
		return true
	}
	below, wild := strings.CutPrefix(other.name, "*")
	return wild && !isAddr(h.name) && strings.HasSuffix(h.name, below)
}

// tidy sorts hosts and leaves out those that another one covers.
func tidy(hosts []host) []host {
	slices.SortFunc(hosts, func(a, b host) int {
		return cmp.Or(strings.Compare(a.name, b.name), cmp.Compare(a.port, b.port))
	})
	hosts = slices.Compact(hosts)
	var kept []host
	for _, h := range hosts {
		if !slices.ContainsFunc(hosts, func(other host) bool { return h != other && h.within(other) }) {
			kept = append(kept, h)
		}
	}
	return kept
}

// String is the policy as Parse takes it, the same for equal policies.
func (p Policy) String() string {
	switch {
	case p.full:
		return full
	case len(p.hosts) == 0:
		return none
	}
	var words []string
	for _, h := range p.hosts {
		web := slices.Contains(webPorts, h.port) && !slices.ContainsFunc(webPorts, func(port uint16) bool {
			return !slices.Contains(p.hosts, host{h.name, port})
		})
		switch {
		case !web:
			words = append(words, h.String())
		case h.port == webPorts[0]:
			words = append(words, h.name)
		}
	}
	return allow + strings.Join(words, ",")
}

// String is the host as a person writes it.
func (h host) String() string {
	name := h.name
	if strings.Contains(name, ":") {
		name = "[" + name + "]"
	}
	return name + ":" + strconv.Itoa(int(h.port))
}

// Lists reports whether the policy is a list of hosts: neither none nor full.
func (p Policy) Lists() bool { return len(p.hosts) > 0 }

// Full reports whether the policy is the whole network of the machine.
func (p Policy) Full() bool { return p.full }

// Within reports whether everything that p allows is allowed by other.
func (p Policy) Within(other Policy) bool {
	if p.full || other.full {
		return other.full
	}
	return !slices.ContainsFunc(p.hosts, func(h host) bool { return !other.has(h) })
}

// And is what both p and other allow.
func (p Policy) And(other Policy) Policy {
	switch {
	case p.full:
		return other
	case other.full:
		return p
	}
	var both Policy
	for _, h := range p.hosts {
		if other.has(h) {
			both.hosts = append(both.hosts, h)
		}
	}
	for _, h := range other.hosts {
		if p.has(h) {
			both.hosts = append(both.hosts, h)
		}
	}
	both.hosts = tidy(both.hosts)
	return both
}

func (p Policy) has(h host) bool {
	return slices.ContainsFunc(p.hosts, h.within)
}
