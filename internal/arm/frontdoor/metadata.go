package frontdoor

import (
	"net/http"

	"github.com/cloister-dev/cloister/internal/arm/resourcemanager"
)

// Metadata describes a cloud: what az, the SDKs and Terraform read from /metadata/endpoints.
type Metadata struct {
	Name            string         `json:"name"`
	Portal          string         `json:"portal,omitempty"`
	Authentication  Authentication `json:"authentication"`
	ResourceManager string         `json:"resourceManager"`
	Graph           string         `json:"graph,omitempty"`
	GraphAudience   string         `json:"graphAudience,omitempty"`
	// MicrosoftGraphResourceID is used by az's role commands.
	MicrosoftGraphResourceID string            `json:"microsoftGraphResourceId,omitempty"`
	Suffixes                 map[string]string `json:"suffixes"` // acrLoginServer …
	// AzureMirror is where az looks for extensions.
	AzureMirror string `json:"azmirrorStorageAccountResourceId,omitempty"`
}

// Authentication describes the token issuer.
type Authentication struct {
	LoginEndpoint    string   `json:"loginEndpoint"`
	Audiences        []string `json:"audiences"`
	Tenant           string   `json:"tenant,omitempty"`
	IdentityProvider string   `json:"identityProvider,omitempty"`
}

// metadata answers /metadata/endpoints. Versions before 2022 answer a list of clouds, later ones one cloud, and
// 2015-01-01 a form of its own.
func (s *server) metadata(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		s.fail(w, r, methodNotAllowed(w, r, "GET"))
		return
	}
	version := r.URL.Query().Get("api-version")
	if err := resourcemanager.CheckAPIVersion(version); err != nil {
		s.fail(w, r, err)
		return
	}
	m := s.Metadata(r)
	if m.Suffixes == nil {
		m.Suffixes = map[string]string{} // az indexes it without looking
	}
	switch {
	case version < "2018":
		s.json(w, r, http.StatusOK, map[string]any{
			"galleryEndpoint": m.ResourceManager, "graphEndpoint": m.Graph, "portalEndpoint": m.Portal, "authentication": m.Authentication,
		})
	case version < "2022":
		s.json(w, r, http.StatusOK, []Metadata{m})
	default:
		s.json(w, r, http.StatusOK, m)
	}
}
