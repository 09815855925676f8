package azcli

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/spf13/cobra"
)

// service is an Azure Resource Manager that keeps documents and remembers what it was asked.
type service struct {
	*httptest.Server
	t        *testing.T
	terminal bool
	in       string

	mu         sync.Mutex
	documents  map[string]object // by path in lower case
	asked      []request
	operation  http.HandlerFunc // answers the status of operations, when a test has its own
	refuse     func(r *http.Request) (status int, body string)
	header     http.Header // of what refuse answers
	private    bool        // registries answer nobody from outside
	paged      bool        // registries give their lists in pages
	principals []any       // of the directory
}

func newService(t *testing.T) *service {
	s := &service{t: t, documents: map[string]object{}}
	s.Server = httptest.NewServer(http.HandlerFunc(s.answer))
	t.Cleanup(s.Close)
	return s
}

type exitError int

func (e exitError) Error() string { return fmt.Sprintf("exit status %d", int(e)) }

// az runs a command, and returns its exit status, what it printed, and what it complained of.
func (s *service) az(words ...string) (status int, out, complaint string) {
	return s.azContext(s.t.Context(), words...)
}

func (s *service) azContext(ctx context.Context, words ...string) (status int, out, complaint string) {
	var stdout, stderr bytes.Buffer
	root := &cobra.Command{Use: "cloister", TraverseChildren: true, SilenceErrors: true, SilenceUsage: true}
	root.AddCommand(New(Options{
		Connect: func(context.Context) (*Connection, error) {
			return &Connection{HTTP: s.Client(), Endpoint: s.URL, Subscription: subscription, TenantID: "11111111-1111-1111-1111-111111111111", Graph: s.URL,
				Token: func(context.Context, string) (string, error) { return "secret", nil }}, nil
		},
		Registry: s.registry,
		In:       strings.NewReader(s.in), Out: &stdout, Err: &stderr, Terminal: s.terminal,
		Exit: func(status int) error { return exitError(status) },
	}))
	root.SetArgs(append([]string{"az"}, words...))
	err := root.ExecuteContext(ctx)
	var exit exitError
	if errors.As(err, &exit) {
		status = int(exit)
	} else if err != nil {
		s.t.Fatalf("az %v: %v", words, err)
	}
	return status, stdout.String(), stderr.String()
}

// registry reaches whatever registry is asked for at the service.
func (s *service) registry(context.Context) (*http.Client, func(), error) {
	return &http.Client{Transport: toService{s}}, func() {}, nil
}

type toService struct{ *service }

func (t toService) RoundTrip(r *http.Request) (*http.Response, error) {
	u, err := url.Parse(t.URL)
	if err != nil {
		return nil, err
	}
	r = r.Clone(r.Context())
	r.Host, r.URL.Scheme, r.URL.Host = r.URL.Host, u.Scheme, u.Host
	return http.DefaultTransport.RoundTrip(r)
}

func (s *service) requests() []request {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.asked)
}

func (s *service) put(path string, doc object) {
	s.mu.Lock()
	defer s.mu.Unlock()
	doc = maps.Clone(doc)
	if doc["id"] == nil {
		doc["id"] = path
	}
	doc["name"] = path[strings.LastIndexByte(path, '/')+1:]
	s.documents[strings.ToLower(path)] = doc
}

func (s *service) has(path string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.documents[strings.ToLower(path)] != nil
}

func (s *service) answer(w http.ResponseWriter, r *http.Request) {
	if strings.HasSuffix(r.Host, ".azurecr.io") {
		s.dataPlane(w, r)
		return
	}
	if r.Header.Get("Authorization") != "Bearer secret" {
		s.t.Errorf("%s %s was sent without the token", r.Method, r.URL)
	}
	if strings.HasPrefix(r.URL.Path, "/operation") {
		if s.operation != nil {
			s.operation(w, r)
			return
		}
		_, _ = io.WriteString(w, `{"status":"Succeeded","properties":{"provisioningState":"Succeeded","exitCode":0,"startedAt":"S","finishedAt":"F","logs":"node/one"}}`)
		return
	}
	data, _ := io.ReadAll(r.Body)
	asked := request{Method: r.Method, Path: r.URL.Path, APIVersion: r.URL.Query().Get("api-version")}
	if len(data) > 0 {
		if err := json.Unmarshal(data, &asked.Body); err != nil {
			s.t.Errorf("%s %s: %v in %s", r.Method, r.URL, err, data)
		}
	}
	s.mu.Lock()
	s.asked = append(s.asked, asked)
	s.mu.Unlock()
	if s.refuse != nil {
		if status, body := s.refuse(r); status != 0 {
			maps.Copy(w.Header(), s.header)
			w.WriteHeader(status)
			_, _ = io.WriteString(w, body)
			return
		}
	}
	s.respond(w, r, asked)
}

func (s *service) respond(w http.ResponseWriter, r *http.Request, asked request) {
	reply := func(status int, v any) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		_ = json.NewEncoder(w).Encode(v)
	}
	if strings.HasPrefix(r.URL.Path, "/v1.0/") {
		s.graph(w, r, asked)
		return
	}
	key := strings.ToLower(r.URL.Path)
	long := strings.Contains(key, "microsoft.containerservice") || r.Method == http.MethodDelete
	switch r.Method {
	case http.MethodPut, http.MethodPatch:
		doc, _ := asked.Body.(map[string]any)
		if r.Method == http.MethodPut {
			s.put(r.URL.Path, doc)
			if p, _ := doc["properties"].(map[string]any); p["agentPoolProfiles"] != nil { // what the service adds
				p = maps.Clone(p)
				p["identityProfile"] = object{"kubeletidentity": object{"objectId": "0e62e169-25e7-4781-86ec-69e25f25a2db"}}
				stored := maps.Clone(doc)
				stored["properties"] = p
				s.put(r.URL.Path, stored)
			}
		}
		if long {
			w.Header().Set("Azure-AsyncOperation", s.URL+"/operation?api-version=1")
		}
		reply(http.StatusCreated, doc)
		return
	case http.MethodDelete:
		w.Header().Set("Azure-AsyncOperation", s.URL+"/operation?api-version=1")
		w.WriteHeader(http.StatusAccepted)
		return
	case http.MethodPost:
		if strings.HasSuffix(key, "/runcommand") {
			w.Header().Set("Location", s.URL+"/operation/cmd1?api-version=1")
			reply(http.StatusAccepted, object{"id": "cmd1", "properties": object{"provisioningState": "Running"}})
			return
		}
		if strings.HasSuffix(key, "/stop") || strings.HasSuffix(key, "/start") || strings.HasSuffix(key, "/upgradenodeimageversion") {
			w.Header().Set("Azure-AsyncOperation", s.URL+"/operation?api-version=1")
			w.WriteHeader(http.StatusAccepted)
			return
		}
		if strings.HasSuffix(key, "credential") {
			reply(http.StatusOK, object{"kubeconfigs": []any{object{"name": "clusterUser", "value": base64.StdEncoding.EncodeToString([]byte(kubeconfig))}}})
			return
		}
		reply(http.StatusOK, object{})
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if strings.HasSuffix(key, "roledefinitions") {
		guids := map[string]string{"network contributor": networkContributor, "managed identity operator": managedIdentityOperator, "acrpull": "7f951dda-4ed3-4680-a7ca-43fe172d538d"}
		_, name, _ := strings.Cut(r.URL.Query().Get("$filter"), "'")
		reply(http.StatusOK, object{"value": []any{object{
			"id":         "/subscriptions/" + subscription + definitionsPath + "/" + guids[strings.ToLower(strings.TrimSuffix(name, "'"))],
			"properties": object{"roleName": strings.TrimSuffix(name, "'")},
		}}})
		return
	}
	if doc, ok := s.documents[key]; ok {
		if r.Method == http.MethodHead {
			w.WriteHeader(http.StatusNoContent)
			return
		}
		reply(http.StatusOK, doc)
		return
	}
	if strings.HasSuffix(key, "s") { // a collection
		all := []any{}
		for id, doc := range s.documents {
			if path.Dir(id) == key {
				all = append(all, doc)
			}
		}
		reply(http.StatusOK, object{"value": all})
		return
	}
	reply(http.StatusNotFound, object{"error": object{"code": "ResourceNotFound", "message": "The Resource '" + path.Base(r.URL.Path) + "' was not found."}})
}

// graph answers with the principals that a filter or a list of IDs names.
func (s *service) graph(w http.ResponseWriter, r *http.Request, asked request) {
	found := []any{}
	words := r.URL.Query().Get("$filter") + fmt.Sprint(asked.Body)
	for _, p := range s.principals {
		doc := p.(object)
		if strings.Contains(words, fmt.Sprint(doc["id"])) && r.Method == http.MethodPost || strings.Contains(words, "'"+fmt.Sprint(doc["appId"])+"'") {
			found = append(found, p)
		}
	}
	_ = json.NewEncoder(w).Encode(object{"value": found})
}

// dataPlane is a registry as az finds it.
func (s *service) dataPlane(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	form, _ := url.ParseQuery(string(body))
	asked := request{Method: r.Method, Path: r.URL.Path}
	for _, secret := range []string{"access_token", "refresh_token"} {
		if form.Has(secret) {
			form.Set(secret, "...")
		}
	}
	if len(form) > 0 {
		asked.Body = form.Encode()
	}
	s.mu.Lock()
	s.asked = append(s.asked, asked)
	s.mu.Unlock()
	reply := func(status int, text string) {
		w.WriteHeader(status)
		_, _ = io.WriteString(w, text)
	}
	if s.private {
		reply(http.StatusForbidden, `{"errors":[{"code":"DENIED","message":"client with IP '198.18.8.1' is not allowed access."}]}`)
		return
	}
	switch {
	case r.URL.Path == "/oauth2/exchange":
		reply(http.StatusOK, `{"refresh_token":"R"}`)
		return
	case r.URL.Path == "/oauth2/token":
		reply(http.StatusOK, `{"access_token":"A `+form.Get("scope")+`"}`)
		return
	case r.Header.Get("Authorization") == "":
		w.Header().Set("WWW-Authenticate", `Bearer realm="https://`+r.Host+`/oauth2/token",service="`+r.Host+`"`)
		reply(http.StatusUnauthorized, `{"errors":[{"code":"UNAUTHORIZED"}]}`)
	case r.URL.Path == "/v2/_catalog" && s.paged && r.URL.Query().Get("last") == "":
		w.Header().Set("Link", `</v2/_catalog?last=b&n=100>; rel="next"`)
		reply(http.StatusOK, `{"repositories":["a","b"]}`)
	case r.URL.Path == "/v2/_catalog":
		reply(http.StatusOK, `{"repositories":["c"]}`)
	case r.Method == http.MethodDelete:
		reply(http.StatusAccepted, "")
	case strings.HasSuffix(r.URL.Path, "/_tags"):
		reply(http.StatusOK, `{"tags":[{"name":"v1","digest":"sha256:1"},{"name":"v2","digest":"sha256:2"}]}`)
	case strings.Contains(r.URL.Path, "/_tags/"):
		reply(http.StatusOK, `{"tag":{"name":"v1","digest":"sha256:1"}}`)
	default:
		reply(http.StatusNotFound, `{"errors":[{"code":"NAME_UNKNOWN","message":"repository name not known to registry"}]}`)
	}
}

const kubeconfig = `{"apiVersion":"v1","kind":"Config","current-context":"c","clusters":[{"name":"c","cluster":{"server":"https://one"}}],"contexts":[{"name":"c","context":{"cluster":"c","user":"u"}}],"users":[{"name":"u","user":{"token":"t"}}]}`
