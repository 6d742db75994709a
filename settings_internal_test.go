package aside

import (
	"testing"
	"time"
)

// The client's options are those of the settings, by whichever way they come.
func TestResolve(t *testing.T) {
	t.Parallel()
	for _, cluster := range []bool{false, true} {
		r := Redis{Cluster: cluster, TLS: true, URL: "rediss://u:%20p%20@h?skip_verify=true&pool_size=7&socket_timeout=1.5&socket_connect_timeout=2&write_timeout=0&max_retries=2&protocol=2&client_name=x&conn_max_idle_time=1m", Username: "v", Password: "q"}
		o, _, errs := r.resolve()
		if len(errs) > 0 {
			t.Fatal(errs)
		}
		if o.Username != "u" || o.Password != " p " || o.PoolSize != 7 || o.ReadTimeout != 1500*time.Millisecond || o.WriteTimeout != -1 || o.DialTimeout != 2*time.Second ||
			o.MaxRetries != 2 || o.Protocol != 2 || o.ClientName != "x" || o.ConnMaxIdleTime != time.Minute || o.IsClusterMode != cluster || !o.ContextTimeoutEnabled {
			t.Errorf("cluster %v: %+v", cluster, o)
		}
		if !o.TLSConfig.InsecureSkipVerify || o.TLSConfig.ServerName != "h" {
			t.Errorf("cluster %v: TLS %+v", cluster, o.TLSConfig)
		}
	}
	for reqs, skips := range map[string]bool{"none": true, "CERT_NONE": true, "optional": false, "required": false, "": false} {
		o, _, errs := Redis{URL: "rediss://h?ssl_cert_reqs=" + reqs}.resolve()
		if len(errs) > 0 || o.TLSConfig.InsecureSkipVerify != skips {
			t.Errorf("ssl_cert_reqs=%s: %v", reqs, errs)
		}
	}
	o, _, errs := Redis{Hosts: []string{"h"}, SentinelMaster: " m ", SentinelUsername: " su ", SentinelPassword: " sp ", Username: " u ", Password: "p"}.resolve()
	if len(errs) > 0 || o.MasterName != "m" || o.SentinelUsername != "su" || o.SentinelPassword != " sp " || o.Username != "u" || o.Addrs[0] != "h:26379" {
		t.Errorf("Sentinels: %v, %+v", errs, o)
	}
}
