package registry

import (
	"encoding/json"
	"net"
	"net/http"
	"net/netip"
	"path"
	"strings"
	"time"

	"github.com/distribution/distribution/v3/registry/api/errcode"
	v2 "github.com/distribution/distribution/v3/registry/api/v2"
	"github.com/gorilla/mux"
	"github.com/opencontainers/go-digest"
)

// handler serves what arrives at one listener: at a private endpoint's service-side address only its
// own registry's member, at the public address (an invalid private) every registry that is public.
func (s *Server) handler(private netip.Addr) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		start := s.now()
		recorder := &statusRecorder{ResponseWriter: w, status: http.StatusOK}
		w = recorder
		st := s.state.Load()
		host := strings.ToLower(hostname(r.Host))
		defer func() {
			s.log.Info("request", "host", host, "method", r.Method, "path", r.URL.Path, "status", recorder.status,
				"bytes", recorder.bytes, "client", r.RemoteAddr, "duration", s.now().Sub(start).Round(time.Millisecond))
		}()

		t, ok := st.hosts[host]
		if private.IsValid() {
			// The address decides; the name must agree, or the endpoint of one registry would open the others.
			bound, exists := st.endpoints[private]
			if !exists || !ok || bound != t {
				fail(w, http.StatusMisdirectedRequest, "MISDIRECTED", "this endpoint does not serve "+host)
				return
			}
		} else {
			if !ok {
				fail(w, http.StatusNotFound, "REGISTRY_UNKNOWN", "there is no registry "+host)
				return
			}
			if !t.registry.admits(r.RemoteAddr) {
				fail(w, http.StatusForbidden, "DENIED", "client with IP '"+hostname(r.RemoteAddr)+
					"' is not allowed access. Refer https://aka.ms/acr/firewall to grant access.")
				return
			}
		}
		if t.data {
			s.serveSigned(w, r, st, t.registry)
			return
		}
		s.serveRegistry(w, r, st, t.registry)
	})
}

// call is one request of the distribution API, taken apart by distribution's own router, so that what
// is authorized is what is then served.
type call struct {
	st         *state
	registry   *registry
	route      string // v2.RouteName…, or routeReferrers
	repository string
	reference  string // of a manifest
	digest     digest.Digest
}

// routeReferrers is not in distribution's router (3.1).
const routeReferrers = "referrers"

func (s *Server) serveRegistry(w http.ResponseWriter, r *http.Request, st *state, reg *registry) {
	switch r.URL.Path {
	case "/oauth2/exchange":
		s.serveExchange(w, r, st, reg)
		return
	case "/oauth2/token":
		s.serveToken(w, r, reg)
		return
	}
	c, ok := parseCall(r)
	if !ok {
		fail(w, http.StatusNotFound, "NOT_FOUND", "no such operation")
		return
	}
	c.st, c.registry = st, reg
	who, ok := s.authorize(w, r, c)
	if !ok {
		return
	}
	read := r.Method == http.MethodGet || r.Method == http.MethodHead
	switch {
	case c.isACR():
		s.serveACR(w, r, c)
	case c.route == routeReferrers:
		s.serveReferrers(w, r, c)
	case c.route == v2.RouteNameManifest && read:
		s.serveManifest(w, r, c)
	case c.route == v2.RouteNameBlob && read:
		s.serveBlob(w, r, c)
	default:
		s.serveDistribution(w, r, c, who)
	}
}

// serveDistribution hands the request to the registry's distribution App.
func (s *Server) serveDistribution(w http.ResponseWriter, r *http.Request, c call, who principal) {
	query := r.URL.Query()
	switch {
	case c.route == v2.RouteNameBlobUpload && query.Has("mount"):
		// A mount reads the other repository. Without the right to it the spec has us start an upload.
		from := query.Get("from")
		if !isRepository(from) || !who.may(c.registry, from, Pull) {
			query.Del("mount")
			query.Del("from")
			r.URL.RawQuery = query.Encode()
		}
	case c.route == v2.RouteNameCatalog:
		clampPage(r)
	}
	if finishes(r, c) {
		s.storage.finishing.RLock()
		defer s.storage.finishing.RUnlock()
	}
	if isManifestPut(r, c) {
		s.putManifest(w, r, c)
		return
	}
	c.registry.store.app.ServeHTTP(w, r)
}

// finishes reports whether the request may link content that was there before it (storage.finishing).
func finishes(r *http.Request, c call) bool {
	return r.Method == http.MethodPut || r.Method == http.MethodPost && c.route == v2.RouteNameBlobUpload
}

// parseCall takes a request's path apart. Paths that a router would first clean are no calls.
func parseCall(r *http.Request) (call, bool) {
	clean := path.Clean(r.URL.Path)
	if clean != r.URL.Path && clean+"/" != r.URL.Path {
		return call{}, false
	}
	if rest, ok := strings.CutPrefix(clean, acrPrefix); ok {
		return parseACRCall(rest)
	}
	if name, ok := strings.CutPrefix(clean, "/v2/"); ok {
		if name, subject, ok := cutLast(name, "/referrers/"); ok {
			d, err := digest.Parse(subject)
			if err != nil || !isRepository(name) {
				return call{}, false
			}
			return call{route: routeReferrers, repository: name, digest: d}, true
		}
	}
	var m mux.RouteMatch
	if !v2.Router().Match(r, &m) || m.Route == nil {
		return call{}, false
	}
	c := call{route: m.Route.GetName(), repository: m.Vars["name"], reference: m.Vars["reference"]}
	if c.repository != "" && !isRepository(c.repository) {
		return call{}, false
	}
	if c.route == v2.RouteNameBlob {
		d, err := digest.Parse(m.Vars["digest"])
		if err != nil {
			return call{}, false
		}
		c.digest = d
	}
	return c, true
}

func cutLast(s, sep string) (before, after string, found bool) {
	if i := strings.LastIndex(s, sep); i >= 0 {
		return s[:i], s[i+len(sep):], true
	}
	return s, "", false
}

// fail answers with the one error of a distribution error body.
func fail(w http.ResponseWriter, status int, code, message string) {
	type entry struct {
		Code    string `json:"code"`
		Message string `json:"message"`
	}
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.WriteHeader(status)
	// The client may be gone; there is nobody else to tell.
	_ = json.NewEncoder(w).Encode(map[string][]entry{"errors": {{code, message}}})
}

// failWith answers with err, as distribution would when it is one of its errors.
func failWith(w http.ResponseWriter, err error) {
	_ = errcode.ServeJSON(w, err)
}

// hostname is a Host header or address without its port.
func hostname(hostport string) string {
	if host, _, err := net.SplitHostPort(hostport); err == nil {
		return host
	}
	return hostport
}

// statusRecorder notes the answer for the log.
type statusRecorder struct {
	http.ResponseWriter
	status int
	bytes  int64
}

func (w *statusRecorder) WriteHeader(status int) {
	w.status = status
	w.ResponseWriter.WriteHeader(status)
}

func (w *statusRecorder) Write(p []byte) (int, error) {
	n, err := w.ResponseWriter.Write(p)
	w.bytes += int64(n)
	return n, err
}

func (w *statusRecorder) Unwrap() http.ResponseWriter { return w.ResponseWriter }
