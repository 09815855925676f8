package azcli

import (
	"errors"
	"fmt"
	"net/url"
	"strings"

	"github.com/cloister-dev/cloister/internal/arm/resourceid"
)

// Roles that az gives the identities of a cluster in one's own network before it asks for the cluster.
const (
	networkContributor      = "4d97b98b-1d4f-4787-a291-c67834d212e7"
	managedIdentityOperator = "f1a07417-d97a-45cb-824c-7a7467783830"
)

// grantSubnet gives the control plane's identity Network Contributor on the subnet, unless somebody has it there.
// That it cannot is a warning, as with az: who lacks the right to assign may have had it done by another.
func (c *call) grantSubnet() error {
	subnet := c.get("vnet-subnet-id")
	if subnet == "" || c.is("skip-subnet-role-assignment") {
		return nil
	}
	all, err := c.c.list(c.ctx, subnet+assignmentsPath+"?$filter="+url.QueryEscape("atScope()"), assignmentAPI)
	if err != nil {
		return err
	}
	for _, a := range all {
		if scope, role := assignment(a); scope == subnet && strings.HasSuffix(role, networkContributor) {
			return nil
		}
	}
	if !c.has("assign-identity") {
		fmt.Fprintln(c.err, "WARNING: The cluster's own identity will need the role Network Contributor on the subnet; give it one with --assign-identity to have that done here.")
		return nil
	}
	identity, err := c.identity(c.get("assign-identity"))
	if err != nil {
		return err
	}
	if _, err := c.assign(subnet, "Network Contributor", "", object{"principalId": identity["principalId"]}); err != nil {
		fmt.Fprintf(c.err, "WARNING: Could not create a role assignment for subnet. Are you an Owner on this subscription? %v\n", err)
	}
	return nil
}

// grantKubelet lets the control plane's identity assign the kubelet's to nodes.
func (c *call) grantKubelet(kubelet string) error {
	identity, err := c.identity(c.get("assign-identity"))
	if err != nil {
		return err
	}
	scope := strings.ToLower(kubelet) // as az spells it here
	filter := fmt.Sprintf("atScope() and assignedTo('%v')", identity["principalId"])
	all, err := c.c.list(c.ctx, scope+assignmentsPath+"?$filter="+url.QueryEscape(filter), assignmentAPI)
	if err != nil {
		return err
	}
	for _, a := range all {
		if _, role := assignment(a); strings.HasSuffix(role, managedIdentityOperator) {
			return nil
		}
	}
	if _, err := c.assign(scope, "Managed Identity Operator", "", object{"principalId": identity["principalId"]}); err != nil {
		return fmt.Errorf("Could not grant Managed Identity Operator permission to cluster identity at scope %s: %w", kubelet, err)
	}
	return nil
}

func assignment(doc any) (scope, role string) {
	m, _ := doc.(map[string]any)
	p, _ := m["properties"].(map[string]any)
	scope, _ = p["scope"].(string)
	role, _ = p["roleDefinitionId"].(string)
	return scope, strings.ToLower(role)
}

// attach lets the cluster's kubelet identity pull from the registry of --attach-acr.
func (c *call) attach(doc any) error {
	m, _ := doc.(map[string]any)
	p, _ := m["properties"].(map[string]any)
	profile, _ := p["identityProfile"].(map[string]any)
	kubelet, _ := profile["kubeletidentity"].(map[string]any)
	if kubelet["objectId"] == nil {
		return errors.New("the cluster does not say what its kubelet identity is; the registry is not attached")
	}
	registry := c.get("attach-acr")
	if !strings.HasPrefix(registry, "/") {
		values := map[string][]string{"name": {registry}}
		id, err := findRegistry(&call{arguments: arguments{values: values}, ctx: c.ctx, c: c.c, out: c.out, err: c.err}, registry)
		if err != nil {
			return err
		}
		registry = id.String()
	} else if _, err := resourceid.Parse(registry); err != nil {
		return err
	}
	_, err := c.assign(registry, "acrpull", "", object{"principalId": kubelet["objectId"]})
	return err
}
