package s3bucket_test

import (
	"encoding/pem"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/wsmesh/wsmesh/mesh"
	"github.com/wsmesh/wsmesh/objstore"
	"github.com/wsmesh/wsmesh/objstore/buckettest"
	"github.com/wsmesh/wsmesh/objstore/s3bucket"
	"github.com/wsmesh/wsmesh/objstore/s3test"
)

func open(t *testing.T, url string) *s3bucket.Store {
	t.Helper()
	s, err := s3bucket.Open(t.Context(), url)
	require.NoError(t, err)
	return s
}

// TestRemote runs on a fake and, in full, on a real server.
func TestRemote(t *testing.T) {
	s3test.Setenv(t)
	t.Run("fake", func(t *testing.T) { remote(t, s3test.Fake(t)) })
	t.Run("versitygw", func(t *testing.T) { remote(t, s3test.Start(t).URL()) })
}

func remote(t *testing.T, url string) {
	buckettest.RunRemote(t, func(t *testing.T) objstore.Remote { return open(t, "s3://bucket/some/prefix?endpoint="+url) })
	for o, err := range open(t, "s3://bucket?endpoint="+url).List(t.Context(), "", "") {
		require.NoError(t, err)
		require.Fail(t, "left", "%s", o.Name)
	}
}

// TestSum: a server is told the sum of what comes, and refuses other bytes; over TLS, where
// nothing is signed that way, it does no harm.
func TestSum(t *testing.T) {
	s3test.Setenv(t)
	plain := s3test.Start(t).URL()
	at, err := url.Parse(plain)
	require.NoError(t, err)
	secure := httptest.NewTLSServer(httputil.NewSingleHostReverseProxy(at))
	t.Cleanup(secure.Close)
	ca := filepath.Join(t.TempDir(), "ca.pem")
	require.NoError(t, os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: secure.Certificate().Raw}), 0o600))
	t.Setenv("AWS_CA_BUNDLE", ca)
	for _, url := range []string{plain, secure.URL} {
		s := open(t, "s3://bucket/sum?endpoint="+url)
		put := func(data string, sum objstore.ID) error {
			_, err := s.Put(t.Context(), "x", strings.NewReader(data), int64(len(data)), objstore.PutOptions{Sum: sum})
			return err
		}
		require.NoError(t, put("one", objstore.IDOf([]byte("one"))))
		if url == plain {
			err := put("two", objstore.IDOf([]byte("one")))
			require.Equal(t, mesh.CodeInvalid, mesh.CodeOf(err), "%v", err)
		}
		data, _, err := objstore.GetSmall(t.Context(), s, "x")
		require.NoError(t, err)
		require.Equal(t, "one", string(data))
	}
}

// TestEndpointOfTheEnvironment: what the URL does not say, the SDK finds.
func TestEndpointOfTheEnvironment(t *testing.T) {
	s3test.Setenv(t)
	t.Setenv("AWS_ENDPOINT_URL", s3test.Fake(t))
	s := open(t, "s3://bucket/p/")
	require.NoError(t, objstore.PutSmall(t.Context(), s, "x", []byte("data"), ""))
	data, _, err := objstore.GetSmall(t.Context(), open(t, "s3://bucket"), "p/x")
	require.NoError(t, err)
	require.Equal(t, "data", string(data))
}

func TestParseURL(t *testing.T) {
	for s, want := range map[string]s3bucket.Location{
		"s3://b":                                {Bucket: "b"},
		"s3://b/":                               {Bucket: "b"},
		"s3://b/p/q/":                           {Bucket: "b", Prefix: "p/q/"},
		"s3://b/p?region=r&endpoint=http://h:1": {Bucket: "b", Prefix: "p/", Region: "r", Endpoint: "http://h:1"},
	} {
		got, err := s3bucket.ParseURL(s)
		require.NoError(t, err, s)
		require.Equal(t, want, got, s)
	}
	for _, s := range []string{"", "s3://", "s3:///p", "http://b", "s3://key:secret@b", "s3://b?x=1", "s3://b?endpoint=h:1", "s3://b?endpoint=http://key:secret@h", "s3://b?endpoint=http%3A%2F%2Fkey%3Asecret%40h", "s3://key:secret@b/%zz", "s3://b/" + strings.Repeat("x", 600), "s3://b\x00"} {
		_, err := s3bucket.ParseURL(s)
		require.Equal(t, mesh.CodeInvalid, mesh.CodeOf(err), "%q: %v", s, err)
		require.NotContains(t, err.Error(), "secret")
	}
}

// TestErrors: what cannot be had says why, and what to do.
func TestErrors(t *testing.T) {
	s3test.Setenv(t)
	url := s3test.Fake(t)
	_, _, err := open(t, "s3://other?endpoint="+url).Get(t.Context(), "x", 0, 1)
	require.Equal(t, mesh.CodeInvalid, mesh.CodeOf(err), "a bucket that does not exist is no object that does not: %v", err)
	require.Error(t, objstore.PutSmall(t.Context(), open(t, "s3://other?endpoint="+url), "x", nil, ""))

	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	l.Close()
	began := time.Now()
	_, _, err = open(t, "s3://b?endpoint=http://"+l.Addr().String()).Get(t.Context(), "x", 0, 1)
	require.Equal(t, mesh.CodeUnavailable, mesh.CodeOf(err), "%v", err)
	require.Less(t, time.Since(began), time.Minute)

	status := http.StatusForbidden
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(status) }))
	defer server.Close()
	s := open(t, "s3://b?endpoint="+server.URL)
	for code, want := range map[int]mesh.Code{403: mesh.CodeDenied, 404: mesh.CodeNotFound, 412: mesh.CodeConflict, 409: mesh.CodeConflict, 501: mesh.CodeUnsupported, 507: mesh.CodeQuota} {
		status = code
		_, err := s.Stat(t.Context(), "x")
		require.Equal(t, want, mesh.CodeOf(err), "%d: %v", code, err)
	}

	t.Setenv("AWS_ACCESS_KEY_ID", "")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "")
	_, err = s3bucket.Open(t.Context(), "s3://b?endpoint="+url)
	require.Equal(t, mesh.CodeDenied, mesh.CodeOf(err), "%v", err)
}
