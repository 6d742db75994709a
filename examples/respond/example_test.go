package respond_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"

	"github.com/cacheaside/aside/examples/respond"
)

func Example() {
	mux := http.NewServeMux()
	mux.Handle("/rooms/{id}", respond.Methods{http.MethodGet: func(w http.ResponseWriter, r *http.Request) {
		respond.Success(w, http.StatusOK, map[string]string{"id": r.PathValue("id")})
	}})
	mux.HandleFunc("/", respond.NotFound)

	w := httptest.NewRecorder()
	mux.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/rooms/A", nil))
	fmt.Print(w.Code, " ", w.Body)
	// Output:
	// 200 {"status":"success","data":{"id":"A"}}
}

func ExampleMethods() {
	rooms := respond.Methods{
		http.MethodGet:  func(w http.ResponseWriter, _ *http.Request) { respond.Encoded(w, http.StatusOK, []byte(`["A","B"]`)) },
		http.MethodPost: func(w http.ResponseWriter, _ *http.Request) { respond.Success(w, http.StatusCreated, "C") },
	}

	w := httptest.NewRecorder()
	rooms.ServeHTTP(w, httptest.NewRequest(http.MethodDelete, "/rooms", nil))
	fmt.Println(w.Code, "Allow:", w.Header().Get("Allow"))
	fmt.Print(w.Body)
	// Output:
	// 405 Allow: GET, HEAD, POST
	// {"status":"error","message":"DELETE is not allowed here; use GET, HEAD, POST"}
}
