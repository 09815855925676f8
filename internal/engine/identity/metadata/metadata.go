// Package metadata is the Azure Instance Metadata Service: what answers a guest at 169.254.169.254.
// It knows who asks by the source address of the connection alone, which the network vouches for, and
// issues tokens for the identities of that guest and no other.
//
// It opens no sockets and does not know the network; whoever mounts it says which guest has an address.
//
// https://learn.microsoft.com/azure/virtual-machines/instance-metadata-service
// https://learn.microsoft.com/entra/identity/managed-identities-azure-resources/how-to-use-vm-token
package metadata

import (
	"encoding/json"
	"log/slog"
	"net/http"
	"net/netip"
	"regexp"
	"slices"
	"sort"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/cloister-dev/cloister/internal/engine/identity"
)

// Guest is a virtual machine, as its metadata describes it.
type Guest struct {
	Addresses      []netip.Addr // of its NIC, the primary first, and of its pods
	Name           string
	ComputerName   string // host name; Name where empty
	ResourceID     string
	SubscriptionID string
	ResourceGroup  string
	Location       string
	VMSize         string
	Subnet         netip.Prefix // of the primary address; left out of the document where invalid
	Tags           map[string]string
	Identities     []Identity
}

// Identity is a managed identity assigned to a guest.
type Identity struct {
	ClientID    string
	PrincipalID string
	TenantID    string
	ResourceID  string
}

// Lookup returns the guest that has an address.
type Lookup func(netip.Addr) (Guest, bool)

// Server is an http.Handler.
type Server struct {
	lookup Lookup
	issuer *identity.Issuer
	log    *slog.Logger
	mux    *http.ServeMux
}

// versions are the api-versions announced, oldest first. Those between the first and the last are served.
var versions = []string{
	"2017-03-01", "2017-04-02", "2017-08-01", "2017-10-01", "2017-12-01", "2018-02-01", "2018-04-02", "2018-10-01",
	"2019-02-01", "2019-03-11", "2019-04-30", "2019-06-01", "2019-06-04", "2019-08-01", "2019-08-15", "2019-11-01",
	"2020-06-01", "2020-07-15", "2020-09-01", "2020-10-01", "2020-12-01", "2021-01-01", "2021-02-01", "2021-03-01",
	"2021-05-01", "2021-10-01", "2021-11-01", "2021-11-15", "2021-12-13", "2023-07-01", "2023-11-15",
}

var apiVersion = regexp.MustCompile(`^\d{4}-\d{2}-\d{2}$`)

// New returns a Server.
func New(lookup Lookup, issuer *identity.Issuer, log *slog.Logger) *Server {
	s := &Server{lookup: lookup, issuer: issuer, log: log, mux: http.NewServeMux()}
	s.mux.HandleFunc("GET /metadata/versions", s.guarded(s.versions))
	s.mux.HandleFunc("GET /metadata/instance", s.guarded(s.versioned(s.instance)))
	s.mux.HandleFunc("GET /metadata/instance/{path...}", s.guarded(s.versioned(s.instance)))
	s.mux.HandleFunc("GET /metadata/identity/oauth2/token", s.guarded(s.versioned(s.token)))
	s.mux.HandleFunc("GET /metadata/identity/info", s.guarded(s.versioned(s.info)))
	s.mux.HandleFunc("GET /metadata/scheduledevents", s.guarded(s.versioned(s.scheduledEvents)))
	return s
}

func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) { s.mux.ServeHTTP(w, r) }

type handler func(w http.ResponseWriter, r *http.Request, g Guest)

// guarded lets through what a process on the guest asks for on purpose. The header and the ban on forwarded
// requests keep a browser, and a proxy on the guest that can be tricked into a request, from the tokens.
func (s *Server) guarded(h handler) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if !strings.EqualFold(r.Header.Get("Metadata"), "true") {
			refuse(w, http.StatusBadRequest, "Bad request. Required metadata header not specified")
			return
		}
		if r.Header.Get("X-Forwarded-For") != "" {
			refuse(w, http.StatusBadRequest, "Bad request. X-Forwarded-For header is not allowed")
			return
		}
		source, err := netip.ParseAddrPort(r.RemoteAddr)
		if err != nil {
			refuse(w, http.StatusBadRequest, "Bad request. Unknown source address")
			return
		}
		g, ok := s.lookup(source.Addr().Unmap())
		if !ok {
			s.log.WarnContext(r.Context(), "metadata asked from an address no guest has", "address", source.Addr(), "path", r.URL.Path)
			if strings.HasPrefix(r.URL.Path, "/metadata/identity/") {
				refuseToken(w, http.StatusBadRequest, "invalid_request", "Identity not found")
				return
			}
			refuse(w, http.StatusNotFound, "Not found")
			return
		}
		h(w, r, g)
	}
}

func (s *Server) versioned(h handler) handler {
	return func(w http.ResponseWriter, r *http.Request, g Guest) {
		v := r.URL.Query().Get("api-version")
		problem := ""
		switch {
		case v == "":
			problem = "Bad request. api-version was not specified in the request"
		case !apiVersion.MatchString(v) || v < versions[0] || v > versions[len(versions)-1]:
			problem = "Bad request. api-version is invalid or was not specified in the request."
		default:
			h(w, r, g)
			return
		}
		newest := slices.Clone(versions[len(versions)-3:])
		slices.Reverse(newest)
		write(w, http.StatusBadRequest, map[string]any{"error": problem + " For more information refer to aka.ms/azureimds", "newest-versions": newest})
	}
}

func write(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(v) //nolint:errcheck // the guest is gone; there is nobody to tell
}

func refuse(w http.ResponseWriter, status int, problem string) {
	write(w, status, map[string]string{"error": problem})
}

func refuseToken(w http.ResponseWriter, status int, code, description string) {
	write(w, status, map[string]string{"error": code, "error_description": description})
}

func (s *Server) versions(w http.ResponseWriter, _ *http.Request, _ Guest) {
	write(w, http.StatusOK, map[string]any{"apiVersions": versions})
}

// scheduledEvents says that none is planned: nothing here moves or redeploys a machine on its own.
func (s *Server) scheduledEvents(w http.ResponseWriter, _ *http.Request, _ Guest) {
	write(w, http.StatusOK, map[string]any{"DocumentIncarnation": 1, "Events": []any{}})
}

func (s *Server) info(w http.ResponseWriter, _ *http.Request, g Guest) {
	if len(g.Identities) == 0 {
		refuseToken(w, http.StatusBadRequest, "invalid_request", "Identity not found")
		return
	}
	write(w, http.StatusOK, map[string]string{"tenantId": g.Identities[0].TenantID})
}

// token issues an access token of one of the guest's identities.
func (s *Server) token(w http.ResponseWriter, r *http.Request, g Guest) {
	query := r.URL.Query()
	resource := query.Get("resource")
	if resource == "" {
		refuseToken(w, http.StatusBadRequest, "invalid_request", "Required query variable 'resource' is missing")
		return
	}
	if len(resource) > 1024 {
		refuseToken(w, http.StatusBadRequest, "invalid_resource", "AADSTS500011: The resource principal was not found in the tenant.")
		return
	}
	candidates, asked := g.Identities, false
	for name, property := range map[string]func(Identity) string{
		"client_id":    func(i Identity) string { return i.ClientID },
		"object_id":    func(i Identity) string { return i.PrincipalID },
		"principal_id": func(i Identity) string { return i.PrincipalID },
		"mi_res_id":    func(i Identity) string { return i.ResourceID },
		"msi_res_id":   func(i Identity) string { return i.ResourceID },
	} {
		want := query.Get(name)
		if want == "" {
			continue
		}
		asked = true
		var match []Identity
		for _, i := range candidates {
			if strings.EqualFold(property(i), want) {
				match = append(match, i)
			}
		}
		candidates = match
	}
	switch {
	case len(candidates) == 0:
		refuseToken(w, http.StatusBadRequest, "invalid_request", "Identity not found")
		return
	case len(candidates) > 1 && !asked:
		refuseToken(w, http.StatusBadRequest, "invalid_request",
			"Multiple user assigned identities exist, please specify the clientId / resourceId of the identity in the token request")
		return
	}
	i := candidates[0]
	token, err := s.issuer.Issue(identity.Claims{
		TenantID: i.TenantID, ObjectID: i.PrincipalID, AppID: i.ClientID, Audience: resource, ManagedIdentity: i.ResourceID,
	})
	if err != nil {
		s.log.ErrorContext(r.Context(), "managed identity token", "guest", g.ResourceID, "identity", i.ResourceID, "error", err)
		refuseToken(w, http.StatusInternalServerError, "unknown", "Failed to retrieve token from the identity provider")
		return
	}
	w.Header().Set("Cache-Control", "no-store")
	// Every number is a string, as the v1 token endpoint writes them.
	seconds := strconv.FormatInt(int64(token.ExpiresAt.Sub(token.NotBefore)/time.Second)-1, 10)
	write(w, http.StatusOK, map[string]string{
		"access_token": token.Value, "client_id": i.ClientID, "expires_in": seconds, "ext_expires_in": seconds,
		"expires_on": strconv.FormatInt(token.ExpiresAt.Unix(), 10), "not_before": strconv.FormatInt(token.NotBefore.Unix(), 10),
		"resource": resource, "token_type": "Bearer",
	})
}

// instance answers with the document, or the part of it that the path names.
func (s *Server) instance(w http.ResponseWriter, r *http.Request, g Guest) {
	var part any = document(g)
	path := strings.Trim(r.PathValue("path"), "/")
	if path != "" {
		for name := range strings.SplitSeq(path, "/") {
			switch at := part.(type) {
			case map[string]any:
				child, ok := at[name]
				if !ok {
					refuse(w, http.StatusNotFound, "Not found")
					return
				}
				part = child
			case []any:
				i, err := strconv.Atoi(name)
				if err != nil || i < 0 || i >= len(at) {
					refuse(w, http.StatusNotFound, "Not found")
					return
				}
				part = at[i]
			default:
				refuse(w, http.StatusNotFound, "Not found")
				return
			}
		}
	}
	format := strings.ToLower(r.URL.Query().Get("format"))
	leaf, isLeaf := part.(string)
	switch {
	case format == "text":
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		if !isLeaf {
			leaf = listing(part)
		}
		w.Write([]byte(leaf))
	case isLeaf:
		// As in Azure, where json is the default and a leaf has none.
		refuse(w, http.StatusBadRequest, "Bad request. The requested leaf is available as text only: add format=text")
	default:
		write(w, http.StatusOK, part)
	}
}

// listing is the text form of a branch: its children, those with children of their own with a slash.
func listing(part any) string {
	var names []string
	add := func(name string, child any) {
		if _, leaf := child.(string); !leaf {
			name += "/"
		}
		names = append(names, name)
	}
	switch at := part.(type) {
	case map[string]any:
		for name, child := range at {
			add(name, child)
		}
		sort.Strings(names)
	case []any:
		for i, child := range at {
			add(strconv.Itoa(i), child)
		}
	}
	return strings.Join(names, "\n")
}

// document is the guest as compute and network. All leaves are strings, as Azure's are.
func document(g Guest) map[string]any {
	computer := g.ComputerName
	if computer == "" {
		computer = g.Name
	}
	names := make([]string, 0, len(g.Tags))
	for name := range g.Tags {
		names = append(names, name)
	}
	sort.Strings(names)
	list, flat := []any{}, []string{}
	for _, name := range names {
		list = append(list, map[string]any{"name": name, "value": g.Tags[name]})
		flat = append(flat, name+":"+g.Tags[name])
	}
	addresses, prefixes := []any{}, []any{}
	if len(g.Addresses) > 0 {
		// Only the NIC's own address: pods' are not the guest's in the document either.
		addresses = append(addresses, map[string]any{"privateIpAddress": g.Addresses[0].String(), "publicIpAddress": ""})
	}
	if g.Subnet.IsValid() {
		prefixes = append(prefixes, map[string]any{"address": g.Subnet.Masked().Addr().String(), "prefix": strconv.Itoa(g.Subnet.Bits())})
	}
	return map[string]any{
		"compute": map[string]any{
			"azEnvironment": "AzurePublicCloud", "provider": "Microsoft.Compute", "osType": "Linux",
			"name": g.Name, "resourceId": g.ResourceID, "subscriptionId": g.SubscriptionID, "resourceGroupName": g.ResourceGroup,
			"location": g.Location, "vmSize": g.VMSize, "vmScaleSetName": scaleSet(g.ResourceID),
			// The same machine has the same ID for as long as it is the same resource.
			"vmId":      uuid.NewSHA1(uuid.NameSpaceURL, []byte(strings.ToLower(g.ResourceID))).String(),
			"osProfile": map[string]any{"computerName": computer, "adminUsername": "azureuser", "disablePasswordAuthentication": "true"},
			"tags":      strings.Join(flat, ";"), "tagsList": list,
			"zone": "", "platformFaultDomain": "0", "platformUpdateDomain": "0", "placementGroupId": "",
			"isHostCompatibilityLayerVm": "false", "evictionPolicy": "", "priority": "", "userData": "", "customData": "",
		},
		"network": map[string]any{"interface": []any{map[string]any{
			"ipv4":       map[string]any{"ipAddress": addresses, "subnet": prefixes},
			"ipv6":       map[string]any{"ipAddress": []any{}},
			"macAddress": "",
		}}},
	}
}

// scaleSet is the name of the scale set a resource ID runs through, or "".
func scaleSet(id string) string {
	parts := strings.Split(id, "/")
	for i := 0; i+1 < len(parts); i++ {
		if strings.EqualFold(parts[i], "virtualMachineScaleSets") {
			return parts[i+1]
		}
	}
	return ""
}
