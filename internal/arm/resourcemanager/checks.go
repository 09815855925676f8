package resourcemanager

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"strings"
	"time"

	"github.com/cloister-dev/cloister/internal/arm/armerror"
	"github.com/cloister-dev/cloister/internal/arm/resourceid"
	"github.com/cloister-dev/cloister/internal/arm/resourcestore"
	"github.com/cloister-dev/cloister/internal/arm/resourcetype"
)

var apiVersion = regexp.MustCompile(`^(\d{4}-\d{2}-\d{2})(-[A-Za-z][A-Za-z0-9.-]*)?$`)

// CheckAPIVersion accepts every date, with or without a suffix such as -preview: documents are read
// through tolerant models, so a version that is not known yet works like the last one.
func CheckAPIVersion(v string) error {
	if v == "" {
		return armerror.New(armerror.MissingAPIVersion, "The api-version query parameter (?api-version=) is required for all requests.")
	}
	if parts := apiVersion.FindStringSubmatch(v); parts != nil {
		if _, err := time.Parse(time.DateOnly, parts[1]); err == nil {
			return nil
		}
	}
	return armerror.New(armerror.InvalidAPIVersion, "The api-version '%s' is invalid. An api-version is a date in the form yyyy-MM-dd, optionally followed by '-preview'.", v)
}

// anyName is what ARM accepts as a name anywhere (RPC contract: at most 260 characters, none of these, no trailing dot or blank).
var anyName = regexp.MustCompile(`^[^<>%&:?/\\+#]{0,259}[^<>%&:?/\\+#. ]$`)

// groupName is the rule for resource groups (Azure naming rules, Microsoft.Resources).
var groupName = regexp.MustCompile(`^[-\w._()]{0,89}[-\w_()]$`)

func checkName(d resourcetype.Definition, id resourceid.ID) error {
	for _, n := range id.Names() {
		if !anyName.MatchString(n) {
			return armerror.New(armerror.InvalidResourceName, "Resource name %s is invalid. The name can be up to 260 characters long and must not contain any of '<>%%&:\\?/+#' or end with a period or a space.", n)
		}
	}
	if g := id.ResourceGroup(); g != "" && strings.EqualFold(d.Name, ResourceGroups) && !groupName.MatchString(g) {
		return armerror.New("InvalidResourceGroup", "The provided resource group name '%s' has these invalid characters or is longer than 90: the name can only be a letter, digit, '-', '.', '(', ')' or '_' and cannot end with '.'.", g)
	}
	if d.NameRule == nil || d.NameRule.MatchString(id.Name()) {
		return nil
	}
	code, message := d.NameCode, d.NameMessage
	if code == "" {
		code = armerror.InvalidResourceName
	}
	if message == "" {
		message = fmt.Sprintf("Resource name %s is invalid. The name must match the pattern '%s'.", id.Name(), d.NameRule)
	}
	return armerror.New(code, "%s", message)
}

// roleAction is an action as roles name it. Those on resource groups have a name of their own: Network Contributor,
// say, lets one read groups as Microsoft.Resources/subscriptions/resourceGroups/read.
func roleAction(action string) string {
	if len(action) > len(ResourceGroups) && strings.EqualFold(action[:len(ResourceGroups)+1], ResourceGroups+"/") {
		return "Microsoft.Resources/subscriptions/resourceGroups" + action[len(ResourceGroups):]
	}
	return action
}

// Authorize returns AuthorizationFailed unless the principal has the role action on the scope.
func (m *Manager) Authorize(ctx context.Context, p resourcetype.Principal, action string, scope resourceid.ID) error {
	action = roleAction(action)
	ok, err := m.authorizer.Authorize(ctx, p, action, scope)
	if err != nil {
		return fmt.Errorf("check the permission %s on %s: %w", action, scope, err)
	}
	if ok {
		return nil
	}
	return armerror.New(armerror.AuthorizationFailed,
		"The client '%s' with object id '%s' does not have authorization to perform action '%s' over scope '%s' or the scope is invalid. If access was recently granted, please refresh your credentials.",
		clientName(p), p.ObjectID, action, scope)
}

func clientName(p resourcetype.Principal) string {
	if p.Name != "" {
		return p.Name
	}
	return p.ObjectID
}

// authorizeLinked demands the permissions that a document's references ask for.
func (m *Manager) authorizeLinked(ctx context.Context, p resourcetype.Principal, d resourcetype.Definition, id resourceid.ID, body json.RawMessage) error {
	refs, err := d.References(body)
	if err != nil {
		return fmt.Errorf("find the references of %s: %w", id, err)
	}
	var actions, scopes []string
	for _, r := range refs {
		if r.Linked == "" {
			continue
		}
		ok, err := m.authorizer.Authorize(ctx, p, r.Linked, r.ID)
		if err != nil {
			return fmt.Errorf("check the permission %s on %s: %w", r.Linked, r.ID, err)
		}
		if !ok {
			actions, scopes = append(actions, r.Linked), append(scopes, r.ID.String())
		}
	}
	if len(actions) == 0 {
		return nil
	}
	return armerror.New(armerror.LinkedAuthorizationFailed,
		"The client '%s' with object id '%s' has permission to perform action '%s/write' on scope '%s'; however, it does not have permission to perform action(s) '%s' on the linked scope(s) '%s' (respectively) or the linked scope(s) are invalid.",
		clientName(p), p.ObjectID, d.Name, id, strings.Join(actions, ","), strings.Join(scopes, ","))
}

// checkSubscription finds the subscription, and that it may use the provider when it is to be written.
func (m *Manager) checkSubscription(ctx context.Context, d resourcetype.Definition, id resourceid.ID, writes bool) error {
	if err := m.CheckSubscription(ctx, id.Subscription()); err != nil || id.Subscription() == "" {
		return err
	}
	if m.registration == nil || !writes {
		return nil
	}
	ok, err := m.registration.Registered(ctx, id.Subscription(), d.Namespace())
	if err != nil {
		return fmt.Errorf("look up the registration of %s: %w", d.Namespace(), err)
	}
	if !ok {
		e := armerror.New(armerror.MissingRegistration, "The subscription is not registered to use namespace '%s'. See https://aka.ms/rps-not-found for how to register subscriptions.", d.Namespace())
		e.Details = []*armerror.Error{armerror.New(e.Code, "%s", e.Message).WithTarget(d.Namespace())} // where the namespace can be read
		return e
	}
	return nil
}

// CheckSubscription returns SubscriptionNotFound unless there is such a subscription; "" always is.
func (m *Manager) CheckSubscription(ctx context.Context, subscription string) error {
	if subscription == "" || m.directory == nil {
		return nil
	}
	ok, err := m.directory.Subscription(ctx, subscription)
	if err != nil {
		return fmt.Errorf("look up subscription %s: %w", subscription, err)
	}
	if !ok {
		return armerror.New(armerror.SubscriptionNotFound, "The subscription '%s' could not be found.", subscription)
	}
	return nil
}

func groupNotFound(name string) error {
	return armerror.New(armerror.ResourceGroupNotFound, "Resource group '%s' could not be found.", name)
}

// CheckGroup returns ResourceGroupNotFound unless the group exists.
func (m *Manager) CheckGroup(ctx context.Context, group resourceid.ID) error {
	_, err := m.store.Get(ctx, group)
	if errors.Is(err, resourcestore.ErrNotFound) {
		return groupNotFound(group.ResourceGroup())
	}
	return err
}

func notFound(d resourcetype.Definition, id resourceid.ID) error {
	if strings.EqualFold(d.Name, ResourceGroups) {
		return groupNotFound(id.ResourceGroup())
	}
	path := id.Namespace()
	types, names := d.Types(), id.Names()
	for i := range types {
		path += "/" + types[i] + "/" + names[i]
	}
	if id.ResourceGroup() == "" {
		return armerror.New(armerror.ResourceNotFound, "The Resource '%s' was not found. For more details please go to https://aka.ms/ARMResourceNotFoundFix", path)
	}
	return armerror.New(armerror.ResourceNotFound, "The Resource '%s' under resource group '%s' was not found. For more details please go to https://aka.ms/ARMResourceNotFoundFix", path, id.ResourceGroup())
}

// checkParents finds what the resource lies in: its group, and its parent or, for an extension, the
// resource it extends. Nothing is written into what is being deleted.
func (m *Manager) checkParents(ctx context.Context, d resourcetype.Definition, id resourceid.ID, documents resourcestoreReader, writes bool) error {
	if strings.EqualFold(d.Name, ResourceGroups) {
		return nil
	}
	if group := id.GroupID(); !group.IsZero() {
		g, err := documents.resource(ctx, group)
		if errors.Is(err, resourcestore.ErrNotFound) {
			return groupNotFound(id.ResourceGroup())
		}
		if err != nil {
			return err
		}
		if g.Deleting && writes {
			return armerror.New(armerror.ResourceGroupBeingDeleted, "The resource group '%s' is in deprovisioning state and cannot perform this operation.", id.ResourceGroup())
		}
	}
	parent, ok := id.Parent()
	if !ok || parent.Namespace() == "" {
		return nil
	}
	pd, known := m.types.Lookup(parent.Type())
	if !known || pd.Endpoint != nil {
		return nil
	}
	p, err := documents.resource(ctx, parent)
	if errors.Is(err, resourcestore.ErrNotFound) && pd.Find != nil {
		_, err = pd.Find(ctx, parent, documents)
	}
	switch {
	case errors.Is(err, resourcestore.ErrNotFound) && d.Extension:
		return notFound(pd, parent)
	case errors.Is(err, resourcestore.ErrNotFound):
		return armerror.New(armerror.ParentResourceNotFound, "Can not perform requested operation on nested resource. Parent resource '%s' not found.", parent.Name()).WithStatus(http.StatusNotFound)
	case err != nil:
		return err
	case p.Deleting && writes && !d.Extension:
		return armerror.New(pd.Busy, "The parent resource '%s' is being deleted.", parent).WithStatus(http.StatusConflict)
	}
	return nil
}

// busy is the error of a write while an operation is in progress.
func busy(d resourcetype.Definition, id resourceid.ID, o resourcestore.Operation) error {
	if strings.EqualFold(d.Busy, armerror.OperationNotAllowed) {
		types := d.Types()
		return armerror.New(d.Busy, "Operation is not allowed because there's an in progress %s operation (%s) on the %s %s started on %s.",
			o.Kind, o.ID, types[len(types)-1], id.Name(), o.Start.Format(time.RFC3339)).WithStatus(http.StatusConflict)
	}
	return armerror.New(d.Busy, "Another operation on this or dependent resource is in progress. To retrieve status of the operation use uri: /subscriptions/%s/providers/%s/locations/%s/operations/%s?api-version=%s.",
		id.Subscription(), d.Namespace(), o.Location, o.ID, o.APIVersion).WithStatus(http.StatusConflict)
}

// checkPrecondition holds If-Match and If-None-Match (RFC 9110 section 13) against the stored document.
func checkPrecondition(r Request, existing *resourcestore.Resource) error {
	matches := func(header string) bool {
		if existing == nil {
			return false
		}
		for tag := range strings.SplitSeq(header, ",") {
			tag = strings.TrimPrefix(strings.TrimSpace(tag), "W/")
			if tag == "*" || strings.Trim(tag, `"`) == strings.Trim(existing.ETag(), `"`) {
				return true
			}
		}
		return false
	}
	if r.IfMatch != "" && !matches(r.IfMatch) {
		return armerror.New(armerror.PreconditionFailed, "The condition '%s' in the If-Match header was not satisfied. The resource was changed or does not exist.", r.IfMatch)
	}
	if r.IfNoneMatch != "" && matches(r.IfNoneMatch) {
		return armerror.New(armerror.PreconditionFailed, "The Resource '%s' exists already and hence cannot be created again.", r.ID.Name())
	}
	return nil
}

// NormalLocation is a region's name as it is stored and compared: "East US" is eastus.
func NormalLocation(s string) string { return strings.ToLower(strings.ReplaceAll(s, " ", "")) }

// checkLocation holds the location sent against the rules and returns the one to store, "" for what was sent.
func (m *Manager) checkLocation(ctx context.Context, d resourcetype.Definition, r Request, existing *resourcestore.Resource) (string, error) {
	if d.Placement == resourcetype.Inherited {
		return "", nil
	}
	body, err := resourcetype.ParseBody(r.Body)
	if err != nil {
		return "", err
	}
	sent, given := body["location"].(string)
	have := ""
	if existing != nil {
		have = LocationOf(existing.Body)
	}
	if !given || sent == "" {
		if r.Method == http.MethodPatch {
			return have, nil
		}
		return "", armerror.New(armerror.LocationRequired, "The location property is required for this definition.")
	}
	want := NormalLocation(sent)
	if existing != nil && have != "" && NormalLocation(have) != want {
		if strings.EqualFold(d.Name, ResourceGroups) {
			return "", armerror.New(armerror.ResourceGroupInvalidLocation, "Invalid resource group location '%s'. The Resource group already exists in location '%s'.", want, have)
		}
		return "", armerror.New(armerror.InvalidResourceLocation,
			"The resource '%s' already exists in location '%s' in resource group '%s'. A resource with the same name cannot be created in location '%s'. Please select a new resource name.",
			r.ID.Name(), have, r.ID.ResourceGroup(), want)
	}
	if d.Placement == resourcetype.Global {
		if want != "global" {
			return "", locationNotAvailable(d, sent, "global")
		}
		return want, nil
	}
	if m.directory == nil {
		return want, nil
	}
	locations, err := m.directory.Locations(ctx)
	if err != nil {
		return "", fmt.Errorf("list locations: %w", err)
	}
	var names []string
	for _, l := range locations {
		if NormalLocation(l.Name) == want || NormalLocation(l.DisplayName) == want {
			return NormalLocation(l.Name), nil
		}
		names = append(names, l.Name)
	}
	return "", locationNotAvailable(d, sent, strings.Join(names, ","))
}

func locationNotAvailable(d resourcetype.Definition, sent, available string) error {
	return armerror.New(armerror.LocationNotAvailable, "The provided location '%s' is not available for resource type '%s'. List of available regions for the resource type is '%s'.", sent, d.Name, available)
}

// LocationOf is a document's location.
func LocationOf(body json.RawMessage) string {
	var d struct {
		Location string `json:"location"`
	}
	if json.Unmarshal(body, &d) != nil {
		return ""
	}
	return d.Location
}
