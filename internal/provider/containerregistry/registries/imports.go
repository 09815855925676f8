package registries

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path"
	"strings"

	"github.com/cloister-dev/cloister/internal/arm/armerror"
	"github.com/cloister-dev/cloister/internal/arm/resourceid"
	"github.com/cloister-dev/cloister/internal/arm/resourcestore"
	"github.com/cloister-dev/cloister/internal/arm/resourcetype"
	"github.com/cloister-dev/cloister/internal/engine/registry"
)

// importResultsType are what POST importImage points its client to. Azure has them under another name.
const importResultsType = Name + "/importResults"

// pullAction is what the caller of an import needs on a source that is named by its resource.
const pullAction = Name + "/pull/read"

// Imports copies images into registries.
type Imports interface {
	// Order has an import done, though this process dies, and returns the name to ask for its outcome by.
	Order(order registry.Import) (id string, err error)
	// Outcome is how far an import is; os.ErrNotExist when it is not known.
	Outcome(id string) (registry.Import, error)
}

// Authorizer answers role questions.
type Authorizer interface {
	// Allowed tells whether the principal may do the role action on the scope.
	Allowed(ctx context.Context, principal resourcetype.Principal, action string, scope resourceid.ID) (bool, error)
}

// importRequest is the body of importImage.
type importRequest struct {
	Source *struct {
		ResourceID  string `json:"resourceId"`
		RegistryURI string `json:"registryUri"`
		SourceImage string `json:"sourceImage"`
		Credentials *struct {
			Username string `json:"username"`
			Password string `json:"password"`
		} `json:"credentials"`
	} `json:"source"`
	TargetTags           []string `json:"targetTags"`
	UntaggedRepositories []string `json:"untaggedTargetRepositories"`
	Mode                 string   `json:"mode"`
}

// importImage is POST importImage: az acr import.
func (d Deps) importImage(ctx context.Context, r *resourcetype.ActionRequest[Model]) (any, error) {
	var body importRequest
	if err := json.Unmarshal(r.Body, &body); err != nil {
		return nil, armerror.New(armerror.InvalidRequestContent, "The request content was invalid and could not be deserialized: '%v'.", err)
	}
	invalid := func(target, format string, args ...any) error {
		return armerror.New("InvalidParameters", format, args...).WithTarget(target)
	}
	if body.Source == nil || body.Source.SourceImage == "" {
		return nil, invalid("source.sourceImage", "The source image is required.")
	}
	if len(body.TargetTags)+len(body.UntaggedRepositories) == 0 {
		return nil, invalid("targetTags", "At least one target tag or untagged target repository is required.")
	}
	order := registry.Import{
		Target: r.Model.Properties.LoginServer, Tags: body.TargetTags, Untagged: body.UntaggedRepositories,
		Source: registry.ImportSource{Image: body.Source.SourceImage},
	}
	switch strings.ToLower(body.Mode) {
	case "", "noforce":
	case "force":
		order.Force = true
	default:
		return nil, invalid("mode", "The import mode '%s' is invalid. Allowed values: NoForce, Force.", body.Mode)
	}
	switch from := body.Source; {
	case (from.ResourceID == "") == (from.RegistryURI == ""):
		return nil, invalid("source", "Exactly one of resourceId and registryUri is required.")
	case from.RegistryURI != "":
		order.Source.Host = strings.TrimSuffix(strings.TrimPrefix(strings.ToLower(from.RegistryURI), "https://"), "/")
		if from.Credentials == nil {
			break
		}
		if !strings.HasSuffix(order.Source.Host, suffix) {
			return nil, armerror.New(armerror.NotSupported, "Credentials for a source registry that is not an Azure Container Registry are not supported by Cloister.").WithTarget("source.credentials")
		}
		order.Source.Username, order.Source.Password = from.Credentials.Username, from.Credentials.Password
	default:
		id, err := resourceid.Parse(from.ResourceID)
		if err != nil || !id.Is(Name) {
			return nil, invalid("source.resourceId", "The resource ID '%s' is not a container registry's.", from.ResourceID)
		}
		allowed, err := d.Access.Allowed(ctx, r.Caller, pullAction, id)
		if err != nil {
			return nil, fmt.Errorf("check whether %s may pull from %s: %w", r.Caller.ObjectID, id, err)
		}
		if !allowed {
			return nil, armerror.New(armerror.LinkedAuthorizationFailed,
				"The client with object id '%s' has permission to perform action '%s/importImage/action' on scope '%s'; however, it does not have permission to perform action(s) '%s' on the linked scope(s) '%s' (respectively) or the linked scope(s) are invalid.",
				r.Caller.ObjectID, Name, r.ID, pullAction, id)
		}
		var source Model
		if err := r.Documents.Get(ctx, id, &source); errors.Is(err, resourcestore.ErrNotFound) {
			return nil, armerror.New(armerror.ResourceNotFound, "The source registry '%s' was not found.", id).WithTarget("source.resourceId")
		} else if err != nil {
			return nil, fmt.Errorf("read %s: %w", id, err)
		}
		order.Source.Host = source.Properties.LoginServer
		// Registries are trusted services of each other: they pass a firewall whose owner lets those pass.
		order.Source.Trusted = source.open() || source.Properties.NetworkRuleBypassOptions == "AzureServices"
		if !order.Source.Trusted {
			return nil, armerror.New("Forbidden", "The source registry %s does not allow access from trusted services. Refer https://aka.ms/acr/firewall to grant access.", id).WithStatus(http.StatusForbidden)
		}
	}
	if !r.Model.open() && r.Model.Properties.NetworkRuleBypassOptions != "AzureServices" {
		return nil, armerror.New("Forbidden", "The registry %s does not allow access from trusted services. Refer https://aka.ms/acr/firewall to grant access.", r.ID).WithStatus(http.StatusForbidden)
	}
	id, err := d.Imports.Order(order)
	if err != nil {
		return nil, fmt.Errorf("order an import into %s: %w", r.ID, err)
	}
	return &resourcetype.Response{Status: http.StatusAccepted, Location: r.ID.Child("importResults", id).String(), Body: importResult{Status: registry.ImportRunning}}, nil
}

// open reports whether the public endpoint serves everybody.
func (m *Model) open() bool {
	p := m.Properties
	return p.PublicNetworkAccess != "Disabled" && (p.NetworkRuleSet == nil || p.NetworkRuleSet.DefaultAction != "Deny")
}

// importResult is the body of an import that did not fail. A failed one answers with its error.
type importResult struct {
	Status string `json:"status"`
}

// ImportResult is the document of an import's outcome.
type ImportResult struct {
	Properties importResult `json:"properties"`
}

// ImportResults is the type of what an import came to: 202 while it runs.
func ImportResults(d Deps) resourcetype.Definition {
	return resourcetype.Define(resourcetype.Spec[ImportResult]{
		Name: importResultsType, Placement: resourcetype.Inherited, NoState: true, NoPut: true, NoDelete: true,
		Prepare: func(context.Context, *resourcetype.Request[ImportResult]) error { return nil },
		Find: func(_ context.Context, id resourceid.ID, _ resourcetype.Reader) (resourcestore.Resource, error) {
			outcome, err := d.Imports.Outcome(id.Name())
			parent, _ := id.Parent()
			switch {
			case errors.Is(err, os.ErrNotExist):
				return resourcestore.Resource{}, resourcestore.ErrNotFound
			case err != nil:
				return resourcestore.Resource{}, fmt.Errorf("read the outcome of %s: %w", id, err)
			case !strings.EqualFold(outcome.Target, parent.Name()+suffix): // another registry's
				return resourcestore.Resource{}, resourcestore.ErrNotFound
			case outcome.State == registry.ImportFailed:
				return resourcestore.Resource{}, armerror.New(outcome.Code, "%s", outcome.Message).WithStatus(outcome.Status)
			}
			body, err := json.Marshal(map[string]any{"id": id.String(), "name": path.Base(id.String()), "type": importResultsType, "properties": importResult{outcome.State}})
			return resourcestore.Resource{ID: id, Body: body}, err
		},
		Render: func(_ context.Context, v *resourcetype.View[ImportResult]) error {
			if v.Model.Properties.Status == registry.ImportRunning {
				v.Status = http.StatusAccepted
			}
			return nil
		},
	})
}
