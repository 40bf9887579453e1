package inside

// EgressAddr is where commands find the way out, in their own network. The port is
// that of proxies, which no server that is being developed is likely to want.
const (
	EgressAddr = "127.0.0.1:3128"
	egressPort = 3128
)
