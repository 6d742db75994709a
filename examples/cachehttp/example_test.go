package cachehttp_test

import (
	"fmt"
	"log"
	"net/http"
	"net/http/httptest"

	"github.com/cacheaside/aside"
	"github.com/cacheaside/aside/examples/cachehttp"
)

func ExampleHandler() {
	cfg := aside.Config{Type: "memory"}
	cache, err := aside.Open(cfg)
	if err != nil {
		log.Fatal(err)
	}
	defer cache.Close()

	mux := http.NewServeMux() // the service's
	routes := cachehttp.Handler(cache, cfg, cachehttp.Options{AdminToken: "of a secret store"})
	mux.Handle("/cache/", routes)
	mux.Handle("/api/v1/cache/", routes)

	r := httptest.NewRequest(http.MethodPost, "/cache/clear", nil)
	r.Header.Set("Authorization", "Bearer of a secret store")
	w := httptest.NewRecorder()
	mux.ServeHTTP(w, r)
	fmt.Print(w.Code, " ", w.Body)
	// Output:
	// 200 {"status":"success","data":{"message":"Cache cleared"}}
}
