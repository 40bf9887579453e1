package client

import (
	"bytes"
	"fmt"
	"regexp"
	"strings"

	"github.com/wsmesh/wsmesh/mesh"
)

// noNetwork is how programs say, in their last words, that they found no network or
// no name. Refused connections are not among them: those are what a program's own
// test server gives, too.
var noNetwork = [][]byte{
	[]byte("could not resolve host"),                  // curl, git
	[]byte("couldn't resolve host"),                   // curl, old
	[]byte("could not resolve hostname"),              // ssh
	[]byte("unable to resolve host address"),          // wget
	[]byte("temporary failure in name resolution"),    // C library
	[]byte("temporary failure resolving"),             // apt
	[]byte("name or service not known"),               // C library
	[]byte("network is unreachable"),                  // C library, Go, Python
	[]byte("enetunreach"),                             // Node.js
	[]byte("eai_again"),                               // Node.js, npm
	[]byte("getaddrinfo enotfound"),                   // Node.js
	[]byte("failed to lookup address information"),    // Rust
	[]byte("dial tcp: lookup "),                       // Go
	[]byte("java.net.unknownhostexception"),           // Java
	[]byte("failed to establish a new connection: ["), // pip
}

// farConnect is how curl, and git through it, say that they could not connect to a
// machine, for whatever reason. Where there is no network and it is another machine,
// there is but one.
var farConnect = regexp.MustCompile(`failed to connect to (\S+) port \d+`)

// foundNone reports whether a program says that it found no network.
func foundNone(stderr []byte) bool {
	said := bytes.ToLower(stderr)
	for _, words := range noNetwork {
		if bytes.Contains(said, words) {
			return true
		}
	}
	for _, m := range farConnect.FindAllSubmatch(said, -1) {
		if host := string(m[1]); host != "localhost" && host != "::1" && !strings.HasPrefix(host, "127.") {
			return true
		}
	}
	return false
}

// NetworkHint says what the network may have had to do with a command that failed,
// and which flag would grant more; "" when nothing speaks for that. stderr is the
// end of what the command wrote there. It is a guess from a program's words where
// the command had no network, and a fact where a proxy refused hosts.
func NetworkHint(final *mesh.Final, stderr []byte) string {
	if final.Code == 0 || final.ErrorCode != "" {
		return ""
	}
	if len(final.Refused) > 0 {
		list := strings.Join(final.Refused, ",")
		return fmt.Sprintf("%s was refused to commands of this view: not in --net %.200s, or at an address that is not public; "+
			"more is granted with --net allow:%s, by the command, its workspace and the operator (dev --net, dev --net-except)",
			strings.ReplaceAll(list, ",", ", "), final.Net, list)
	}
	if final.Net != "none" {
		return ""
	}
	if foundNone(stderr) {
		return "the command had no network, which may be why it failed; hosts are granted with --net allow:HOST,… or --net full, " +
			"as far as the operator does (dev --net)"
	}
	return ""
}
