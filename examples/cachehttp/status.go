package cachehttp

import (
	"net/http"

	"github.com/cacheaside/aside/examples/respond"
)

// status is the answer of GET /cache/status. The fields that are pointers are there only
// when the cache answers. Pointers tell a field that is left out from one that is empty, as
// the version of a cache in memory is.
type status struct {
	Enabled      bool         `json:"enabled"`
	Message      string       `json:"message,omitempty"`
	RedisVersion *string      `json:"redis_version,omitempty"`
	UsedMemory   *string      `json:"used_memory,omitempty"`
	TotalKeys    *int64       `json:"total_keys,omitempty"`
	CacheConfig  *cacheConfig `json:"cache_config,omitempty"`

	// The rest describes this process, and is known also while the cache is unavailable.
	Backend             string `json:"backend"`
	Breaker             string `json:"breaker"`
	QueuedInvalidations int    `json:"queued_invalidations"`
	QueueOverflowed     bool   `json:"queue_overflowed"`
	Stats               stats  `json:"stats"`
}

// stats are aside.Stats with names for JSON. The fields are the same, in the same order, so
// that one converts to the other: a counter that the library adds does not compile until it
// has a name here.
type stats struct {
	Hits               int64 `json:"hits"`
	NearHits           int64 `json:"near_hits"`
	StaleHits          int64 `json:"stale_hits"`
	Misses             int64 `json:"misses"`
	Loads              int64 `json:"loads"`
	LoadErrors         int64 `json:"load_errors"`
	Refreshes          int64 `json:"refreshes"`
	RefreshErrors      int64 `json:"refresh_errors"`
	RefreshesSkipped   int64 `json:"refreshes_skipped"`
	Audited            int64 `json:"audited"`
	AuditDifferences   int64 `json:"audit_differences"`
	AuditsUndecided    int64 `json:"audits_undecided"`
	Coalesced          int64 `json:"coalesced"`
	Waited             int64 `json:"waited"`
	Degraded           int64 `json:"degraded"`
	StaleFills         int64 `json:"stale_fills"`
	DecodeErrors       int64 `json:"decode_errors"`
	EncodeErrors       int64 `json:"encode_errors"`
	Invalidated        int64 `json:"invalidated"`
	InvalidationQueued int64 `json:"invalidation_queued"`
}

// status answers 200 also while the cache is unavailable, as the service then goes on
// without it: that is a state to show and not a failed request.
func (h *handler) status(w http.ResponseWriter, r *http.Request) {
	s, err := h.cache.Status(r.Context())
	out := status{
		Enabled:             err == nil && !h.disabled(),
		Backend:             h.backend(),
		Breaker:             s.Breaker,
		QueuedInvalidations: s.Queued,
		QueueOverflowed:     s.Overflowed,
		Stats:               stats(s.Stats),
	}
	switch {
	case h.disabled():
		out.Message = disabledMessage
	case err != nil:
		out.Message = h.unavailable()
	default:
		shown := h.cacheConfig()
		out.RedisVersion, out.UsedMemory, out.TotalKeys, out.CacheConfig = &s.Version, &s.UsedMemory, &s.Keys, &shown
	}
	respond.Success(w, http.StatusOK, out)
}
