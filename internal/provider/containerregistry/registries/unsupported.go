package registries

import (
	"context"

	"github.com/cloister-dev/cloister/internal/arm/armerror"
	"github.com/cloister-dev/cloister/internal/arm/resourcetype"
)

// None is the document of a type of which there are none.
type None struct {
	Location   string            `json:"location,omitempty"`
	Tags       map[string]string `json:"tags,omitempty"`
	Properties *struct{}         `json:"properties,omitempty"`
}

// Unsupported declares what registries can hold in Azure and not here. Their lists are empty, which clients
// want to know (Terraform reads the replications of every registry), and making one is refused by name.
func Unsupported() []resourcetype.Definition {
	var list []resourcetype.Definition
	for _, kind := range []string{"replications", "webhooks", "credentialSets", "scopeMaps", "tokens"} {
		placement := resourcetype.Inherited
		if kind == "replications" || kind == "webhooks" {
			placement = resourcetype.Regional
		}
		list = append(list, resourcetype.Define(resourcetype.Spec[None]{
			Name: Name + "/" + kind, Placement: placement,
			Prepare: func(context.Context, *resourcetype.Request[None]) error {
				return armerror.New(armerror.NotSupported, "The %s of a container registry are not supported by Cloister.", kind)
			},
		}))
	}
	return list
}
