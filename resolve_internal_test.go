package aside

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A TLS connection is at least of version 1.2, and knows the certificates that the URL
// names.
func TestResolve_TLS(t *testing.T) {
	t.Parallel()
	server := httptest.NewTLSServer(nil)
	defer server.Close()
	dir := t.TempDir()
	cert, garbage := filepath.Join(dir, "ca.pem"), filepath.Join(dir, "garbage.pem")
	for name, text := range map[string][]byte{
		cert:    pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}),
		garbage: []byte("garbage"),
	} {
		if err := os.WriteFile(name, text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, r := range []Redis{{Hosts: []string{"h"}, TLS: true}, {URL: "rediss://h"}, {URL: "redis://h", TLS: true}} {
		o, _, errs := r.resolve()
		if len(errs) > 0 || o.TLSConfig == nil || o.TLSConfig.MinVersion != tls.VersionTLS12 {
			t.Errorf("%+v: %v, TLS %+v, want at least version 1.2", r, errs, o)
		}
	}
	own := &tls.Config{ServerName: "own"}
	if o, _, errs := (Redis{URL: "rediss://h", TLSConfig: own}).resolve(); len(errs) > 0 || o.TLSConfig.ServerName != "own" {
		t.Errorf("%v, TLS %+v, want the ServerName of TLSConfig", errs, o)
	}
	if o, _, errs := (Redis{Hosts: []string{"h"}, TLS: true, TLSConfig: own}).resolve(); len(errs) > 0 || o.TLSConfig != own {
		t.Errorf("%v, TLS %+v, want TLSConfig itself", errs, o)
	}
	o, _, errs := Redis{URL: "rediss://h?ssl_ca_certs=" + cert}.resolve()
	if len(errs) > 0 || o.TLSConfig.RootCAs == nil {
		t.Fatalf("%v: want the certificates of the file", errs)
	}
	if _, err := server.Certificate().Verify(x509.VerifyOptions{Roots: o.TLSConfig.RootCAs}); err != nil {
		t.Error(err)
	}
	for _, name := range []string{garbage, dir, filepath.Join(dir, "none.pem")} {
		if _, _, errs := (Redis{URL: "rediss://h?ssl_ca_certs=" + name}).resolve(); len(errs) == 0 {
			t.Errorf("%s is taken for certificates", name)
		}
	}
}

// Settings that do not go together are refused, each with its name.
func TestResolve_Refuses(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		r    Redis
		want string
	}{
		{Redis{Hosts: []string{"h"}, DB: -1}, "DB"},
		{Redis{URL: "redis://h", SentinelMaster: "m"}, "URL"},
		{Redis{Hosts: []string{"h"}, SentinelMaster: "m", Cluster: true}, "Cluster"},
		{Redis{URL: "redis://h/1", Cluster: true}, "Cluster"},
		{Redis{URL: "unix:///s", Cluster: true}, "Cluster"},
		{Redis{URL: "redis://h?skip_verify=true"}, "skip_verify"},
		{Redis{URL: "redis://h?ssl_certfile=/x"}, "TLSConfig"},
		{Redis{URL: "redis://-h"}, "host"},
		{Redis{URL: "redis://.h"}, "host"},
	} {
		if _, _, errs := c.r.resolve(); len(errs) == 0 || !strings.Contains(errs[0].Error(), c.want) {
			t.Errorf("%+v: %v, want an error that names %s", c.r, errs, c.want)
		}
	}
	o, _, errs := Redis{URL: "redis://h", Username: "u", Password: "p"}.resolve()
	if len(errs) > 0 || o.Username != "u" || o.Password != "p" || o.MaxRetries != 1 || o.DialerRetries != 1 {
		t.Errorf("%v, %+v, want the user beside the URL, and one try more", errs, o)
	}
	if _, notes, errs := (Redis{Hosts: []string{"h:1"}, Port: -1}).resolve(); len(errs) > 0 || len(notes) != 1 {
		t.Errorf("%v, %v, want a note on a Port that no host needs", errs, notes)
	}
	o, _, errs = Redis{Hosts: []string{"a", "b"}, SentinelMaster: "m"}.resolve()
	if len(errs) > 0 || o.IsClusterMode {
		t.Errorf("%v, %+v, want Sentinels, which are no Cluster", errs, o)
	}
}
