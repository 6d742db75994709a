package proof

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/cacheaside/aside"
	"github.com/cacheaside/aside/asidetest"
	"github.com/cacheaside/aside/backend"
	"github.com/cacheaside/aside/internal/redistest"
)

func open(t *testing.T, cfg aside.Config) aside.Cache {
	t.Helper()
	c, err := aside.Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// clusterEnv is the environment of a service that uses the Cluster.
func clusterEnv(servers []*redistest.Server) map[string]string {
	return map[string]string{"REDIS_HOST": servers[0].Addr + "," + servers[1].Addr + "," + servers[2].Addr}
}

// environ returns variables as ConfigFromEnv takes them.
func environ(env map[string]string) []string {
	var out []string
	for name, value := range env {
		out = append(out, name+"="+value)
	}
	return out
}

func configOf(t *testing.T, env map[string]string) aside.Config {
	t.Helper()
	cfg, err := aside.ConfigFromEnv(environ(env))
	if err != nil {
		t.Fatal(err)
	}
	return cfg
}

func TestCluster(t *testing.T) {
	t.Parallel()
	servers := redistest.StartCluster(t)
	client := redistest.ClusterClient(t, servers)
	for name, waitReplicas := range map[string]int{"every operation": 0, "every operation, waiting for a replica": 1} {
		t.Run(name, func(t *testing.T) {
			asidetest.Run(t, asidetest.Harness{New: func(t *testing.T) backend.Backend {
				flush(t, client)
				cfg := configOf(t, clusterEnv(servers))
				cfg.Timeout, cfg.WaitReplicas = 20*time.Second, waitReplicas
				return open(t, cfg).(backend.Backend)
			}})
		})
	}
	t.Run("Clear and the count of keys are of all masters", func(t *testing.T) { clearCluster(t, servers, client) })
	t.Run("a slot moves while it is read and written", func(t *testing.T) {
		flush(t, client) // the last test left values of another database
		f := newFleet(t, clusterEnv(servers))
		f.traffic()
		time.Sleep(time.Second)
		for i := range 6 {
			moveSlot(t, servers[:3], client, tableSpace.Key(f.rows[0]).String(), i)
		}
		time.Sleep(time.Second)
		f.end()
		f.check(trouble{}, 0, 0)
	})
	t.Run("a master is killed", func(t *testing.T) { // the last, as the Cluster has one less then
		flush(t, client) // the last test left values of another database
		f := newFleet(t, clusterEnv(servers))
		f.traffic()
		time.Sleep(time.Second)
		from := clock()
		quiet, key := open(t, configOf(t, clusterEnv(servers))), tableSpace.Key(f.rows[0])
		must(t, aside.Invalidate(t.Context(), quiet, key))
		killMasterOf(t, servers, client, key.String())
		to := clock()
		// A process without reads from that master notices the change as well, and soon.
		must(t, aside.Invalidate(t.Context(), quiet, key))
		redistest.Eventually(t, "the invalidation of a quiet process is delivered", func() bool { return !aside.Pending(quiet, key) })
		time.Sleep(4 * time.Second)
		f.end()
		f.checkFailover(from, to)
	})
	t.Run("who waits is told, from every node, and after its own was killed", func(t *testing.T) {
		w := newWaiting(t, configOf(t, clusterEnv(servers)), func() (nodes []*redis.Client) {
			var mu sync.Mutex
			must(t, client.ForEachMaster(t.Context(), func(_ context.Context, c *redis.Client) error {
				mu.Lock()
				defer mu.Unlock()
				nodes = append(nodes, c)
				return nil
			}))
			return nodes
		})
		w.areTold("before")
		killMasterOf(t, servers, client, "aside:wake")
		w.areTold("after")
	})
}

// waiting is two processes, one of which waits for the loads of the other.
type waiting struct {
	t     *testing.T
	one   aside.Cache
	two   aside.Cache
	nodes func() []*redis.Client
}

func newWaiting(t *testing.T, cfg aside.Config, nodes func() []*redis.Client) waiting {
	t.Helper()
	cfg.Timeout = 5 * time.Second
	return waiting{t, open(t, cfg), open(t, cfg), nodes}
}

// areTold waits until the waiters are notified of the ends of loads, which it tells by the few
// times that they have asked for the values.
func (w waiting) areTold(name string) {
	t := w.t
	t.Helper()
	const keys, takes = 6, time.Second // of several slots
	tries := 0
	redistest.Eventually(t, "who waits is told", func() bool {
		var wg sync.WaitGroup
		var worst atomic.Int64
		before := w.scripts()
		tries++
		for i := range keys {
			key := tableSpace.Key(fmt.Sprint(name, tries, i))
			wg.Go(func() {
				loading := make(chan struct{})
				var loaded atomic.Int64
				wg.Go(func() {
					_, _ = aside.GetOrLoad(t.Context(), w.one, key, func(context.Context) (int, error) {
						close(loading)
						time.Sleep(takes)
						loaded.Store(clock())
						return i, nil
					})
				})
				<-loading
				v, err := aside.GetOrLoad(t.Context(), w.two, key, func(context.Context) (int, error) { return -1, nil })
				if v == -1 || err != nil {
					worst.Store(int64(takes)) // by itself, in trouble
					return
				}
				if late := clock() - loaded.Load(); late > worst.Load() {
					worst.Store(late)
				}
			})
		}
		wg.Wait()
		asked := (w.scripts() - before) / keys
		t.Logf("%s: the last value was %v late, for %d scripts of both processes a key", name, time.Duration(worst.Load()), asked)
		return worst.Load() < int64(takes) && asked < 25 // by polling it is a hundred
	})
}

// scripts returns how many scripts all nodes have run.
func (w waiting) scripts() (n int) {
	for _, node := range w.nodes() {
		for _, name := range []string{"eval", "evalsha"} {
			_, rest, _ := strings.Cut(node.Info(w.t.Context(), "commandstats").Val(), "cmdstat_"+name+":calls=")
			calls, _, _ := strings.Cut(rest, ",")
			i, _ := strconv.Atoi(calls)
			n += i
		}
	}
	return n
}

func flush(t *testing.T, client *redis.ClusterClient) {
	t.Helper()
	must(t, client.ForEachMaster(t.Context(), func(ctx context.Context, c *redis.Client) error { return c.FlushAll(ctx).Err() }))
}

func clearCluster(t *testing.T, servers []*redistest.Server, client *redis.ClusterClient) {
	flush(t, client)
	cfg := configOf(t, clusterEnv(servers))
	cfg.Timeout = 20 * time.Second
	c := open(t, cfg)
	must(t, client.Set(t.Context(), "theirs", "x", 0).Err())
	for i := range 300 {
		_, err := aside.GetOrLoad(t.Context(), c, aside.ChatMessages(strconv.Itoa(i)), func(context.Context) (int, error) { return i, nil })
		must(t, err)
	}
	for _, s := range servers[:3] {
		if n := s.Client().DBSize(t.Context()).Val(); n < 50 {
			t.Errorf("a master has %d of 300 keys: this shows nothing of several", n)
		}
	}
	if s, err := c.Status(t.Context()); err != nil || s.Keys != 301 {
		t.Errorf("Status counts %d keys, %v; want 301", s.Keys, err)
	}
	must(t, c.Clear(t.Context()))
	if s, err := c.Status(t.Context()); err != nil || s.Keys != 1 {
		t.Errorf("after Clear there are %d keys, %v; want another program's one", s.Keys, err)
	}
}

// moveSlot moves the key's slot to the master that follows its own, as
// redis-cli --cluster reshard does.
func moveSlot(t *testing.T, masters []*redistest.Server, client *redis.ClusterClient, key string, nth int) {
	t.Helper()
	ctx := t.Context()
	slot := int(client.ClusterKeySlot(ctx, key).Val())
	from, to := masters[nth%3], masters[(nth+1)%3]
	for i, s := range masters {
		for _, line := range strings.Split(s.Client().ClusterNodes(ctx).Val(), "\n") {
			fields := strings.Fields(line)
			if len(fields) > 8 && strings.Contains(fields[2], "myself") && slices.ContainsFunc(fields[8:], func(r string) bool { return inRange(r, slot) }) {
				from, to = masters[i], masters[(i+1)%3]
			}
		}
	}
	source, target := from.Client(), to.Client()
	sourceID, targetID := source.Do(ctx, "CLUSTER", "MYID").String(), target.Do(ctx, "CLUSTER", "MYID").String()
	sourceID, targetID = lastWord(sourceID), lastWord(targetID)
	must(t, target.Do(ctx, "CLUSTER", "SETSLOT", slot, "IMPORTING", sourceID).Err())
	must(t, source.Do(ctx, "CLUSTER", "SETSLOT", slot, "MIGRATING", targetID).Err())
	time.Sleep(100 * time.Millisecond) // new keys are made at the target, while the old ones are at the source
	host, port, _ := net.SplitHostPort(to.Addr)
	for {
		keys := source.ClusterGetKeysInSlot(ctx, slot, 10).Val()
		if len(keys) == 0 {
			break
		}
		for _, k := range keys { // one at a time: values without their leases, and the other way round
			must(t, source.Migrate(ctx, host, port, k, 0, 5*time.Second).Err())
			time.Sleep(20 * time.Millisecond)
		}
	}
	for _, s := range []*redis.Client{target, source} {
		must(t, s.Do(ctx, "CLUSTER", "SETSLOT", slot, "NODE", targetID).Err())
	}
	time.Sleep(100 * time.Millisecond)
}

func lastWord(s string) string { f := strings.Fields(s); return f[len(f)-1] }

func inRange(r string, slot int) bool {
	first, last, ok := strings.Cut(r, "-")
	a, err := strconv.Atoi(first)
	b, err2 := strconv.Atoi(last)
	if !ok {
		b, err2 = a, err
	}
	return err == nil && err2 == nil && a <= slot && slot <= b
}

// killMasterOf kills the key's master, and returns when another node is it.
func killMasterOf(t *testing.T, servers []*redistest.Server, client *redis.ClusterClient, key string) {
	t.Helper()
	master, err := client.MasterForKey(t.Context(), key)
	must(t, err)
	old := master.Options().Addr
	// Until now a node that stood still for a while was not replaced.
	patience := func(ms string) {
		for _, s := range servers {
			_ = s.Client().ConfigSet(t.Context(), "cluster-node-timeout", ms).Err() // some are dead
		}
	}
	patience("500")
	defer patience("15000")
	for _, s := range servers {
		if s.Addr == old {
			s.Kill()
		}
	}
	redistest.Eventually(t, "a replica takes over", func() bool {
		client.ReloadState(t.Context())
		master, err := client.MasterForKey(t.Context(), key)
		return err == nil && master.Options().Addr != old && master.Ping(t.Context()).Err() == nil
	})
}

// TestSentinel measures the losses of a failover. Replication is asynchronous, so values that the
// master deleted in its last moments may be back afterwards.
func TestSentinel(t *testing.T) {
	t.Parallel()
	for name, wait := range map[string]string{"not waiting": "0", "waiting for a replica": "1"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			sentinel, master := redistest.StartSentinel(t, 2)
			env := map[string]string{"REDIS_HOST": sentinel.Addr, "REDIS_SENTINEL_MASTER": "main", "REDIS_WAIT_REPLICAS": wait}
			f := newFleet(t, env)
			f.traffic()
			time.Sleep(1500 * time.Millisecond)
			from := clock()
			master.Kill()
			redistest.Eventually(t, "the Sentinel names another master", func() bool {
				addr := sentinel.Client().Do(t.Context(), "SENTINEL", "GET-MASTER-ADDR-BY-NAME", "main").String()
				_, port, _ := net.SplitHostPort(master.Addr)
				return !strings.Contains(addr, port)
			})
			to := clock()
			time.Sleep(4 * time.Second) // longer than a value lives
			f.end()
			f.checkFailover(from, to)
		})
	}
}

// The new master notifies waiters as the old one did.
func TestSentinel_WhoWaits(t *testing.T) {
	t.Parallel()
	sentinel, master := redistest.StartSentinel(t, 1)
	cfg := configOf(t, map[string]string{"REDIS_HOST": sentinel.Addr, "REDIS_SENTINEL_MASTER": "main"})
	client := redis.NewFailoverClient(&redis.FailoverOptions{MasterName: "main", SentinelAddrs: []string{sentinel.Addr}})
	t.Cleanup(func() { client.Close() })
	w := newWaiting(t, cfg, func() []*redis.Client { return []*redis.Client{client} })
	w.areTold("before")
	master.Kill()
	w.areTold("after")
}

// checkFailover checks the promises that hold in spite of a failover: no call fails, and stale
// values end with their time to live at the latest. It counts stale reads until then.
func (f *fleet) checkFailover(from, to int64) {
	t := f.t
	if len(f.errors) > 0 {
		t.Errorf("%d calls failed, the first of them with: %s", len(f.errors), f.errors[0])
	}
	h := f.history([][2]int64{{from, to}})
	stale := h.stale()
	reads, last := 0, int64(0)
	for _, o := range h.ops {
		if o.Kind == read && o.Call > from {
			reads++
		}
	}
	for _, o := range stale {
		last = max(last, o.Return)
	}
	t.Logf("a failover of %v: %d of %d reads since were stale", time.Duration(to-from).Round(time.Millisecond), len(stale), reads)
	if limit := to + int64(tableSpace.TTL) + int64(2*time.Second); last > limit {
		t.Errorf("reads were stale %v after the failover: longer than a value lives", time.Duration(last-to))
	}
	for _, o := range stale {
		if o.Call < from {
			t.Errorf("before the failover: %v was stale", o)
		}
	}
	if reads < 100 {
		t.Error("too few to show anything")
	}
}

// TestTLS uses a Redis that wants a certificate of its clients, and a user with a
// password and no more rights than needed.
func TestTLS(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	ca, pool := newAuthority(t, dir)
	server := redistest.New(t)
	_, port, _ := net.SplitHostPort(server.Addr)
	ca.issue(t, dir, "server")
	clientCert := ca.issue(t, dir, "client")
	app := []string{"--user", "app", "on", ">s3cret", "~*", "-@all", "+get", "+set", "+del", "+unlink", "+eval", "+evalsha",
		"+hset", "+hdel", "+hget", "+hgetall", "+pexpire", "+pttl", "+time", "+scan", "+dbsize", "+info", "+ping", "+hello",
		"+publish", "+subscribe", "&aside:wake"}
	server.Args(redistest.Rights(app...)...)
	server.Args("--port", "0", "--tls-port", port, "--tls-auth-clients", "yes", "--tls-ca-cert-file", filepath.Join(dir, "ca.pem"),
		"--tls-cert-file", filepath.Join(dir, "server.pem"), "--tls-key-file", filepath.Join(dir, "server.key"),
		"--user", "default", "off", "--user", "admin", "on", ">adm1n", "~*", "+@all")
	server.Launch()
	host := "127.0.0.1"
	with := func(certs ...tls.Certificate) *tls.Config {
		return &tls.Config{RootCAs: pool, Certificates: certs, MinVersion: tls.VersionTLS12}
	}
	cfg := aside.Config{Timeout: 20 * time.Second, Redis: aside.Redis{
		Hosts: []string{net.JoinHostPort(host, port)}, TLSConfig: with(clientCert), Username: "app", Password: "s3cret"}}
	redistest.Eventually(t, "redis-server answers with TLS", func() bool {
		c, err := aside.Open(cfg)
		must(t, err)
		defer c.Close()
		_, err = c.Status(t.Context())
		return err == nil
	})
	space := aside.Keyspace{Name: "s"}
	admin := redis.NewClient(&redis.Options{Addr: cfg.Redis.Hosts[0], TLSConfig: with(clientCert), Username: "admin", Password: "adm1n"})
	t.Cleanup(func() { admin.Close() })
	asidetest.Run(t, asidetest.Harness{New: func(t *testing.T) backend.Backend {
		must(t, admin.FlushAll(t.Context()).Err())
		return open(t, cfg).(backend.Backend)
	}})
	for name, change := range map[string]func(*aside.Redis){
		"no certificate":    func(r *aside.Redis) { r.TLSConfig = with() },
		"unknown authority": func(r *aside.Redis) { r.TLSConfig = &tls.Config{Certificates: []tls.Certificate{clientCert}} },
		"no TLS":            func(r *aside.Redis) { r.TLSConfig = nil },
		"wrong password":    func(r *aside.Redis) { r.Password = "guess" },
	} {
		t.Run(name, func(t *testing.T) {
			wrong := cfg
			wrong.Timeout = 0
			change(&wrong.Redis)
			c := open(t, wrong)
			if _, err := c.Status(t.Context()); err == nil || strings.Contains(err.Error(), "s3cret") || strings.Contains(err.Error(), "guess") {
				t.Errorf("Status: %v", err)
			}
			v, err := aside.GetOrLoad(t.Context(), c, space.Key("1"), func(context.Context) (string, error) { return "v", nil })
			if v != "v" || err != nil {
				t.Errorf("GetOrLoad: %q, %v", v, err)
			}
		})
	}
}

// authority issues certificates for tests.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T, dir string) (authority, *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	a := authority{&x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}, key}
	der, err := x509.CreateCertificate(rand.Reader, a.cert, a.cert, &key.PublicKey, key)
	must(t, err)
	a.cert, err = x509.ParseCertificate(der)
	must(t, err)
	must(t, os.WriteFile(filepath.Join(dir, "ca.pem"), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600))
	pool := x509.NewCertPool()
	pool.AddCert(a.cert)
	return a, pool
}

// issue writes NAME.pem and NAME.key.
func (a authority) issue(t *testing.T, dir, name string) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name}, NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}, a.cert, &key.PublicKey, a.key)
	must(t, err)
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	must(t, err)
	certPEM := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	keyPEM := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})
	must(t, os.WriteFile(filepath.Join(dir, name+".pem"), certPEM, 0o600))
	must(t, os.WriteFile(filepath.Join(dir, name+".key"), keyPEM, 0o600))
	cert, err := tls.X509KeyPair(certPEM, keyPEM)
	must(t, err)
	return cert
}
