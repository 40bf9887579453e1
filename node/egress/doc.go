// Package egress decides which hosts of the network commands reach, and is the
// proxy through which they do.
//
// # Policy
//
// A [Policy] is nothing, a list of hosts, or the whole network of the machine. The
// mesh has one, and a workspace and a command may have narrower ones; what holds is
// what all of them allow.
//
// # Proxy
//
// A sandbox whose policy is a list of hosts has an empty network of its own. All it
// finds there is a listening socket on its loopback address, which was made inside,
// before any command, and whose descriptor is here: so the listener that a
// connection came through says whose it is, and nothing that is said on the
// connection can change that. No process stands in between.
//
// The proxy takes CONNECT, and plain HTTP in absolute form. It asks whether the
// policy has the name and the port; it finds the addresses of the name itself; and
// it looks at each address at the moment it is connected to, in the dialer, after
// which no name is looked up again. An address that is not public is refused, as
// are those of the machine and of the mesh, whatever name led there. The operator
// may except some ([Exception]), the mesh's own endpoints never.
//
// TLS passes through unread. So a name in CONNECT decides which host is reached, not
// what is said to it: a host that serves several names serves all of them to who may
// reach one.
//
// Connections are bounded for each sandbox, tenant and node, and end when nothing
// moves for [DefaultIdle]. All of them end with their sandbox: [Gate.Serve] returns
// when nothing is left.
package egress
