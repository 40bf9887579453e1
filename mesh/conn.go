package mesh

import (
	"crypto/tls"
	"crypto/x509"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
)

// ConnOptions are the options of every connection of the mesh: an own inbox, so
// that permissions can tell inboxes apart; quick and endless reconnects; pings
// that find a frozen peer within ten seconds; and no buffer for messages written
// while disconnected, since a request replayed after its caller gave up would be
// a surprise. What goes wrong besides shows in calls that fail; the library would
// write it to the standard error of whose program this is. Two identical authorization errors end the connection (nats.go's
// rule), so a revoked token does not knock for ever.
func ConnOptions(name, inbox string) []nats.Option {
	return []nats.Option{
		nats.Name(name),
		nats.CustomInboxPrefix(inbox),
		nats.MaxReconnects(-1),
		nats.ReconnectWait(100 * time.Millisecond),
		nats.ReconnectJitter(50*time.Millisecond, 50*time.Millisecond),
		nats.ReconnectBufSize(-1),
		nats.PingInterval(3 * time.Second),
		nats.MaxPingsOutstanding(2),
		nats.Timeout(5 * time.Second),
		nats.DrainTimeout(10 * time.Second),
		nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {}),
	}
}

// TLSOption trusts a mesh's own CA, in PEM, besides nobody else; without one it trusts
// whom the machine does. It says nothing where no server of urls speaks TLS.
func TLSOption(urls string, ca []byte) (nats.Option, error) {
	if len(ca) == 0 || !strings.Contains(strings.ToLower(urls), "tls://") {
		return func(*nats.Options) error { return nil }, nil
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(ca) {
		return nil, Errorf(CodeInvalid, "the CA's certificate is not in PEM; it is the ca.pem that wsmesh init has written")
	}
	return nats.Secure(&tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}), nil
}

// TokenOption authenticates a connection with a bearer token. The token is
// never put into a URL or a connection name.
func TokenOption(token string) nats.Option {
	return nats.UserJWT(
		func() (string, error) { return token, nil },
		func([]byte) ([]byte, error) { return nil, nil }, // a bearer token signs no nonce
	)
}
