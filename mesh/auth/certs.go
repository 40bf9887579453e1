package auth

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"time"
)

// CAFile is the name of the certificate that vouches for a mesh's servers. It
// stands beside each file of credentials, and is read from there.
const CAFile = "ca.pem"

// certLife is how long a certificate holds. The mesh has no way to replace one by
// itself: the operator would have to at a time that nobody remembers.
const certLife = 10 * 365 * 24 * time.Hour

// CA makes the certificates of a mesh's servers.
type CA struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// Pair is a certificate and its key, in PEM.
type Pair struct{ Cert, Key []byte }

// NewCA makes one with a key of its own, and returns that as a pair too.
func NewCA() (*CA, Pair, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, Pair{}, err
	}
	t := &x509.Certificate{
		Subject: pkix.Name{CommonName: "wsmesh mesh"}, IsCA: true, BasicConstraintsValid: true, MaxPathLenZero: true,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	pair, cert, err := issue(t, t, key, key)
	return &CA{cert: cert, key: key}, pair, err
}

// Peer makes a certificate for a NATS server that is reached by any of hosts, names or
// addresses. It shows it to the others, too, when it calls them.
func (ca *CA) Peer(hosts ...string) (Pair, error) {
	return ca.pair(hosts, x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth)
}

// Server makes a certificate for another server.
func (ca *CA) Server(hosts ...string) (Pair, error) {
	return ca.pair(hosts, x509.ExtKeyUsageServerAuth)
}

func (ca *CA) pair(hosts []string, usage ...x509.ExtKeyUsage) (Pair, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return Pair{}, err
	}
	t := &x509.Certificate{
		Subject: pkix.Name{CommonName: hosts[0]}, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: usage,
	}
	for _, h := range hosts {
		if ip := net.ParseIP(h); ip != nil {
			t.IPAddresses = append(t.IPAddresses, ip)
		} else {
			t.DNSNames = append(t.DNSNames, h)
		}
	}
	pair, _, err := issue(t, ca.cert, key, ca.key)
	return pair, err
}

// issue signs a certificate for key with the parent's.
func issue(t, parent *x509.Certificate, key, signer *ecdsa.PrivateKey) (Pair, *x509.Certificate, error) {
	var err error
	if t.SerialNumber, err = rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120)); err != nil {
		return Pair{}, nil, err
	}
	t.NotBefore = time.Now().Add(-time.Hour) // for clocks that are behind
	t.NotAfter = t.NotBefore.Add(certLife)
	raw, err := x509.CreateCertificate(rand.Reader, t, parent, &key.PublicKey, signer)
	if err != nil {
		return Pair{}, nil, err
	}
	cert, err := x509.ParseCertificate(raw)
	if err != nil {
		return Pair{}, nil, err
	}
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return Pair{}, nil, err
	}
	return Pair{
		Cert: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: raw}),
		Key:  pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret}),
	}, cert, nil
}
