package approver

import (
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	certificates "k8s.io/api/certificates/v1"
)

// Node is a node of the cluster: its name and every address a serving certificate of it may hold.
type Node struct {
	Name      string
	Addresses []netip.Addr
}

const (
	userPrefix = "system:node:"
	nodesGroup = "system:nodes"
)

// decision is what becomes of a request.
type decision int

const (
	wait    decision = iota // for the node to become known
	approve                 // it is what the node's kubelet should ask for
	deny
)

// decide judges a request as the signer's rules have it, plus one: the names and addresses must be the
// node's. Without it any node could be given a certificate for another's address, and the API server
// would send that node's logs and exec streams to it.
//
// https://kubernetes.io/docs/reference/access-authn-authz/certificate-signing-requests/#kubernetes-signers
func decide(spec *certificates.CertificateSigningRequestSpec, nodes map[string]Node) (decision, string) {
	name, ok := strings.CutPrefix(spec.Username, userPrefix)
	if !ok || name == "" {
		return deny, fmt.Sprintf("requested by %q, which is no node", spec.Username)
	}
	if !slices.Contains(spec.Groups, nodesGroup) {
		return deny, "the requestor is not in group " + nodesGroup
	}
	if reason := usages(spec.Usages); reason != "" {
		return deny, reason
	}
	block, rest := pem.Decode(spec.Request)
	if block == nil || block.Type != "CERTIFICATE REQUEST" || len(strings.TrimSpace(string(rest))) > 0 {
		return deny, "the request is not one PEM certificate request"
	}
	request, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		return deny, fmt.Sprintf("the request cannot be read: %v", err)
	}
	if err := request.CheckSignature(); err != nil {
		return deny, "the request is not signed by its own key"
	}
	if request.Subject.CommonName != spec.Username {
		return deny, fmt.Sprintf("the common name is %q, not the requestor's", request.Subject.CommonName)
	}
	if !slices.Equal(request.Subject.Organization, []string{nodesGroup}) {
		return deny, fmt.Sprintf("the organization is %q, not %s", request.Subject.Organization, nodesGroup)
	}
	if len(request.EmailAddresses) > 0 || len(request.URIs) > 0 {
		return deny, "e-mail and URI names are not allowed"
	}
	if len(request.DNSNames)+len(request.IPAddresses) == 0 {
		return deny, "no name and no address is requested"
	}
	node, ok := nodes[name]
	if !ok {
		return wait, fmt.Sprintf("node %q is not known yet", name)
	}
	for _, n := range request.DNSNames {
		if n != node.Name {
			return deny, fmt.Sprintf("name %q is not the node's", n)
		}
	}
	for _, ip := range request.IPAddresses {
		a, ok := netip.AddrFromSlice(ip)
		if !ok || !slices.Contains(node.Addresses, a.Unmap()) {
			return deny, fmt.Sprintf("address %s is not the node's", ip)
		}
	}
	return approve, "the names and addresses are the node's"
}

// usages returns what is wrong with the requested key usages, or "".
func usages(requested []certificates.KeyUsage) string {
	if !slices.Contains(requested, certificates.UsageServerAuth) {
		return "usage server auth is missing"
	}
	for _, u := range requested {
		switch u {
		case certificates.UsageServerAuth, certificates.UsageDigitalSignature, certificates.UsageKeyEncipherment:
		default:
			return fmt.Sprintf("usage %q is not allowed", u)
		}
	}
	return ""
}
