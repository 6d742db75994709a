package main

import (
	"context"
	"net/http"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/cacheaside/aside"
	"github.com/cacheaside/aside/hook"
)

// metrics are the server's, for Prometheus.
type metrics struct {
	registry *prometheus.Registry
	requests *prometheus.HistogramVec
	reads    *prometheus.HistogramVec
}

func newMetrics() *metrics {
	m := &metrics{
		registry: prometheus.NewRegistry(),
		requests: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "http_request_duration_seconds", Help: "Time of requests, streams to their end.",
		}, []string{"route", "method", "code"}),
		reads: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "cache_read_duration_seconds", Help: "Time of reads through the cache, loads included.",
			Buckets: prometheus.ExponentialBuckets(1e-6, 4, 11),
		}, []string{"keyspace", "outcome"}),
	}
	m.registry.MustRegister(m.requests, m.reads, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

func (m *metrics) handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{})
}

func (m *metrics) request(route, method string, code int, took time.Duration) {
	switch method {
	case http.MethodGet, http.MethodHead, http.MethodPost, http.MethodDelete:
	default:
		method = "other" // clients may invent as many as they like
	}
	m.requests.WithLabelValues(route, method, strconv.Itoa(code)).Observe(took.Seconds())
}

func (m *metrics) read(r hook.Read) {
	m.reads.WithLabelValues(r.Keyspace, r.Outcome).Observe(r.Duration.Seconds())
}

// watch has the cache's own counts collected.
func (m *metrics) watch(cache aside.Cache) { m.registry.MustRegister(cacheCollector{cache}) }

// cacheCollector asks the cache when it is collected.
type cacheCollector struct{ cache aside.Cache }

type cacheMetric struct {
	desc  *prometheus.Desc
	kind  prometheus.ValueType
	value func(s aside.Status) float64
}

func counter(name, help string, value func(s aside.Stats) int64) cacheMetric {
	return cacheMetric{prometheus.NewDesc("cache_"+name+"_total", help, nil, nil), prometheus.CounterValue,
		func(s aside.Status) float64 { return float64(value(s.Stats)) }}
}

func gauge(name, help string, value func(s aside.Status) float64) cacheMetric {
	return cacheMetric{prometheus.NewDesc("cache_"+name, help, nil, nil), prometheus.GaugeValue, value}
}

var up = prometheus.NewDesc("cache_up", "Whether the cache's backend answers.", nil, nil)

var cacheMetrics = []cacheMetric{
	counter("hits", "Reads answered from the cache.", func(s aside.Stats) int64 { return s.Hits }),
	counter("near_hits", "Reads answered from the near cache, which are hits, too.", func(s aside.Stats) int64 { return s.NearHits }),
	counter("stale_hits", "Reads answered from the cache with values older than CACHE_REFRESH_<NAME>, which are hits, too.", func(s aside.Stats) int64 { return s.StaleHits }),
	counter("misses", "Reads that were not answered from the cache.", func(s aside.Stats) int64 { return s.Misses }),
	counter("loads", "Loads from the database.", func(s aside.Stats) int64 { return s.Loads }),
	counter("load_errors", "Loads that failed.", func(s aside.Stats) int64 { return s.LoadErrors }),
	counter("refreshes", "Loads that were to replace values older than CACHE_REFRESH_<NAME>.", func(s aside.Stats) int64 { return s.Refreshes }),
	counter("refresh_errors", "Refreshes that failed.", func(s aside.Stats) int64 { return s.RefreshErrors }),
	counter("refreshes_skipped", "Refreshes that were not begun as too many were running.", func(s aside.Stats) int64 { return s.RefreshesSkipped }),
	counter("coalesced", "Reads that took the result of another's load.", func(s aside.Stats) int64 { return s.Coalesced }),
	counter("waited", "Waits for a load in another process.", func(s aside.Stats) int64 { return s.Waited }),
	counter("degraded", "Reads that went without the cache because of trouble with it.", func(s aside.Stats) int64 { return s.Degraded }),
	counter("stale_fills", "Loaded values that were not stored because a write came between.", func(s aside.Stats) int64 { return s.StaleFills }),
	counter("decode_errors", "Stored values that did not decode.", func(s aside.Stats) int64 { return s.DecodeErrors }),
	counter("encode_errors", "Loaded values that could not be stored.", func(s aside.Stats) int64 { return s.EncodeErrors }),
	counter("invalidated", "Keys whose invalidation was applied.", func(s aside.Stats) int64 { return s.Invalidated }),
	counter("invalidation_queued", "Keys whose invalidation had to be queued.", func(s aside.Stats) int64 { return s.InvalidationQueued }),
	gauge("queued_invalidations", "Invalidations waiting to be delivered.", func(s aside.Status) float64 { return float64(s.Queued) }),
	gauge("queue_overflowed", "Whether the queue was full, so that nothing cached is trusted.", func(s aside.Status) float64 { return oneIf(s.Overflowed) }),
	gauge("breaker_open", "Whether any of the backend is left alone.", func(s aside.Status) float64 { return oneIf(s.Breaker == "open") }),
}

func (cacheCollector) Describe(descs chan<- *prometheus.Desc) {
	descs <- up
	for _, m := range cacheMetrics {
		descs <- m.desc
	}
}

func (c cacheCollector) Collect(out chan<- prometheus.Metric) {
	s, err := c.cache.Status(context.Background()) // takes at most CACHE_TIMEOUT
	out <- prometheus.MustNewConstMetric(up, prometheus.GaugeValue, oneIf(err == nil))
	for _, m := range cacheMetrics {
		out <- prometheus.MustNewConstMetric(m.desc, m.kind, m.value(s))
	}
}

func oneIf(yes bool) float64 {
	if yes {
		return 1
	}
	return 0
}
