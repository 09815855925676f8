package registry

import (
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"

	"github.com/go-jose/go-jose/v4"
)

// Config is the whole desired state of the registry process.
type Config struct {
	TenantID string
	Issuers  []string        // who may have issued the Entra-like tokens that are exchanged
	JWKS     json.RawMessage // the keys that verify them

	Certificates []KeyPair // for *.azurecr.io and *.REGION.data.azurecr.io

	PublicNetNS   string     // file of the network namespace that stands for the Internet; "" is the process's own
	PublicAddress netip.Addr // of every registry's public endpoint; listened on in PublicNetNS, when valid

	Upstreams map[string]string // host name to ip:port, dialled from PublicNetNS; there are no others
	CAFile    string            // certificate authorities trusted for upstreams beside the system's

	Registries []Registry
}

// KeyPair is a certificate chain and its key.
type KeyPair struct{ CertPEM, KeyPEM string }

// Registry is one container registry.
type Registry struct {
	ID           string // names the content: a registry that was deleted and made again needs another ID
	Name         string
	LoginServer  string // NAME.azurecr.io
	Region       string
	DataEndpoint string // NAME.REGION.data.azurecr.io; "" serves blobs at LoginServer

	PublicAccess, AnonymousPull bool
	// PublicPrefixes are the only ones served at the public endpoint where OnlyPrefixes is set.
	OnlyPrefixes   bool           `json:",omitempty"`
	PublicPrefixes []netip.Prefix `json:",omitempty"`
	Admin          *Admin         `json:",omitempty"` // nil: there is no admin user
	// OnlyRegistryTokens refuses Entra tokens that are meant for ARM (authentication-as-arm).
	OnlyRegistryTokens bool `json:",omitempty"`

	Endpoints  []Endpoint
	CacheRules []CacheRule
	// Access is what each principal (object ID) may do: pull, push, delete, list.
	Access map[string][]string
}

// Admin is the account that knows a password. It may do everything in its registry.
type Admin struct {
	User      string
	Passwords []string // SHA-256 of each, in hexadecimal: they are random enough for that
}

// adminID stands for the admin user where principals are named; it is no object ID.
const adminID = "admin"

// Endpoint is the service side of one member of a private endpoint.
type Endpoint struct {
	ServiceAddress netip.Addr
	Member         string // "registry" or "registry_data_REGION"
}

// CacheRule lets repositories that match Target be filled from Source. Both may end in "/*"; Target may be "*".
type CacheRule struct{ Name, Source, Target string }

// What a principal may do (Registry.Access).
const (
	Pull   = "pull"
	Push   = "push"
	Delete = "delete"
	List   = "list" // the catalog
)

// ReadConfig reads a Config from a file.
func ReadConfig(path string) (Config, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return Config{}, err
	}
	var c Config
	if err := json.Unmarshal(data, &c); err != nil {
		return Config{}, fmt.Errorf("read %s: %w", path, err)
	}
	return c, nil
}

// state is a Config made ready to serve from. It is never changed, only replaced.
type state struct {
	config       Config
	certificates []*tls.Certificate
	entra        *entraVerifier
	upstream     *upstream
	registries   map[string]*registry // by storage key
	hosts        map[string]target    // by lower-case host name
	endpoints    map[netip.Addr]target
	keys         map[string]bool // the storage key of every registry of the Config, of faulty ones too
}

// registry is one registry of a state.
type registry struct {
	Registry
	key    string
	rules  []rule
	access map[string]map[string]bool
	store  *registryStore // outlives the state
}

// target is what a host name or a service-side address leads to.
type target struct {
	registry *registry
	data     bool // the data endpoint, which serves signed blob addresses and nothing else
}

// compile makes the next state. A registry with a fault is left out, and logged, so that one owner's
// mistake does not stop the others; its content is kept.
func (s *Server) compile(c Config, old *state) (*state, error) {
	next := &state{
		config:     c,
		registries: map[string]*registry{},
		hosts:      map[string]target{},
		endpoints:  map[netip.Addr]target{},
		keys:       map[string]bool{},
	}
	for i, pair := range c.Certificates {
		certificate, err := tls.X509KeyPair([]byte(pair.CertPEM), []byte(pair.KeyPEM))
		if err != nil {
			return nil, fmt.Errorf("certificate %d: %w", i, err)
		}
		next.certificates = append(next.certificates, &certificate)
	}
	var set jose.JSONWebKeySet
	if len(c.JWKS) > 0 {
		if err := json.Unmarshal(c.JWKS, &set); err != nil {
			return nil, fmt.Errorf("key set of the token issuer: %w", err)
		}
	}
	next.entra = &entraVerifier{keys: set, issuers: c.Issuers, tenant: c.TenantID}
	var err error
	if next.upstream, err = newUpstream(c, old.upstream, s.opts.Dial, s.log); err != nil {
		return nil, err
	}
	for _, r := range c.Registries {
		key := storageKey(r.ID)
		next.keys[key] = true
		if err := s.compileRegistry(next, old, key, r); err != nil {
			s.log.Error("a registry is not served", "registry", r.ID, "error", err)
		}
	}
	return next, nil
}

func (s *Server) compileRegistry(next, old *state, key string, r Registry) error {
	var faults []error
	login, data := strings.ToLower(r.LoginServer), strings.ToLower(r.DataEndpoint)
	if r.ID == "" || login == "" {
		faults = append(faults, errors.New("ID and LoginServer are required"))
	}
	if next.registries[key] != nil {
		faults = append(faults, errors.New("another registry has the same ID"))
	}
	for _, host := range []string{login, data} {
		if other, taken := next.hosts[host]; taken && host != "" {
			faults = append(faults, fmt.Errorf("%s is already %s's", host, other.registry.ID))
		}
	}
	for _, e := range r.Endpoints {
		if other, taken := next.endpoints[e.ServiceAddress]; taken {
			faults = append(faults, fmt.Errorf("%s is already %s's", e.ServiceAddress, other.registry.ID))
		}
	}
	if err := errors.Join(faults...); err != nil {
		return err
	}

	compiled := &registry{Registry: r, key: key, access: map[string]map[string]bool{}}
	for principal, actions := range r.Access {
		if principal == adminID {
			continue
		}
		allowed := map[string]bool{}
		for _, action := range actions {
			allowed[action] = true
		}
		compiled.access[strings.ToLower(principal)] = allowed
	}
	if r.Admin != nil {
		compiled.access[adminID] = map[string]bool{Pull: true, Push: true, Delete: true, List: true}
	}
	for _, c := range r.CacheRules {
		parsed, err := parseRule(c)
		if err != nil {
			s.log.Error("a cache rule is not used", "registry", r.ID, "rule", c.Name, "error", err)
			continue
		}
		compiled.rules = append(compiled.rules, parsed)
	}
	if before := old.registries[key]; before != nil {
		compiled.store = before.store
	} else {
		store, err := s.storage.open(key, r.ID, s.keys.UploadSecret)
		if err != nil {
			return err
		}
		compiled.store = store
	}
	next.registries[key] = compiled
	next.hosts[login] = target{registry: compiled}
	if data != "" {
		next.hosts[data] = target{registry: compiled, data: true}
	}
	for _, e := range r.Endpoints {
		next.endpoints[e.ServiceAddress] = target{registry: compiled, data: strings.HasPrefix(e.Member, "registry_data_")}
	}
	return nil
}

// allows reports whether principal may do action now. The principal "" is the anonymous one.
func (r *registry) allows(principal, action string) bool {
	// The node's anonymous probe lists the catalog, so anonymous pull covers it.
	if r.AnonymousPull && (action == Pull || action == List) {
		return true
	}
	return principal != "" && r.access[strings.ToLower(principal)][action]
}

// admits reports whether a client at the remote address may come to the public endpoint.
func (r *registry) admits(remote string) bool {
	if !r.PublicAccess || !r.OnlyPrefixes {
		return r.PublicAccess
	}
	from, err := netip.ParseAddr(hostname(remote))
	return err == nil && slices.ContainsFunc(r.PublicPrefixes, func(p netip.Prefix) bool { return p.Contains(from.Unmap()) })
}

// storageKey is the registry's directory: an ID may be an ARM ID, and those compare without case.
func storageKey(id string) string {
	sum := sha256.Sum256([]byte(strings.ToLower(id)))
	return hex.EncodeToString(sum[:12])
}
