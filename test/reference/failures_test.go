package reference

import (
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/cloister-dev/cloister/internal/engine/node/bootstrap"
)

// failure is the head of a story in test/e2e about something that goes wrong, or of a part of one: what is refused before
// anything is made needs no cluster of its own to end with.
type failure struct {
	story     string
	situation string // Failure
	seen      string
	codes     []string
	exit      int // 0: none
	exitName  string
	words     string
	mend      string
}

// failureFields begin the lines of a head, in this order.
var failureFields = []string{"Failure", "Seen", "Code", "Exit", "Words", "Mend"}

// failures are the heads of all stories about failures, in the order of the codes that a user may have seen.
func failures(t *testing.T) string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(root, "test", "e2e", "testdata", "fails-*.txtar"))
	if err != nil {
		t.Fatal(err)
	}
	var all []failure
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		of, err := readFailures(filepath.Base(file), string(data))
		if err != nil {
			t.Error(err)
			continue
		}
		all = append(all, of...)
	}
	slices.SortFunc(all, func(a, b failure) int {
		return cmp.Or(cmp.Compare(never(a.exit), never(b.exit)), slices.Compare(a.codes, b.codes), strings.Compare(a.situation, b.situation))
	})
	var b strings.Builder
	b.WriteString("# Failures\n\nWhat goes wrong with network isolated clusters, and how it shows: search this page for the code that you have seen. Each line is a story\n" +
		"of [test/e2e](../../test/e2e/testdata), or a part of one, that causes the failure by commands, looks at what is told, and mends it; all of them run with every test of Cloister.\n" +
		"\n`cloister why` says which of the situations with one code yours is. After what mends it, `az aks update -g GROUP -n CLUSTER` makes a failed cluster\n" +
		"`Succeeded`, as on Azure. The words of a message are Azure's where a source gives them, and Cloister's otherwise. What all exit codes mean:\n" +
		"[errors](errors.md#node-provisioning).\n\n" +
		"| situation | seen | code | exit | words | mend | story |\n|---|---|---|---|---|---|---|\n")
	cell := func(s string) string { return strings.NewReplacer("|", `\|`, "<", "&lt;").Replace(s) }
	for _, f := range all {
		exit, codes := "", ""
		if f.exit != 0 {
			exit = fmt.Sprintf("%d `%s`", f.exit, f.exitName)
		}
		if len(f.codes) > 0 {
			codes = "`" + strings.Join(f.codes, "`, `") + "`"
		}
		fmt.Fprintf(&b, "| %s | %s | %s | %s | %s | %s | [%s](../../test/e2e/testdata/%s) |\n",
			cell(f.situation), cell(f.seen), codes, exit, f.words, cell(f.mend), strings.TrimSuffix(strings.TrimPrefix(f.story, "fails-"), ".txtar"), f.story)
	}
	return b.String()
}

// never sorts what has no exit code after all that has one.
func never(exit int) int {
	if exit == 0 {
		return 1 << 16
	}
	return exit
}

// readFailures reads the head that a story begins with, and those of its further parts.
func readFailures(story, text string) (all []failure, err error) {
	lines := strings.Split(text, "\n")
	for i := range lines {
		if i > 0 && !strings.HasPrefix(lines[i], "# "+failureFields[0]+":") {
			continue
		}
		f, err := readFailure(story, i, lines[i:])
		if err != nil {
			return nil, err
		}
		all = append(all, f)
	}
	return all, nil
}

// readFailure reads the head that lines begin with, which have the one of the index first in their story.
func readFailure(story string, first int, lines []string) (failure, error) {
	f := failure{story: story}
	values := map[string]string{}
	for i, field := range failureFields {
		value := ""
		if i < len(lines) {
			value, _ = strings.CutPrefix(lines[i], "# "+field+": ")
			if value == lines[i] {
				value = ""
			}
		}
		if strings.TrimSpace(value) == "" {
			return f, fmt.Errorf("%s: line %d should be %q and what it is", story, first+i+1, "# "+field+":")
		}
		values[field] = value
	}
	f.situation, f.seen, f.words, f.mend = values["Failure"], values["Seen"], values["Words"], values["Mend"]
	if f.words != "Azure" && f.words != "Cloister" {
		return f, fmt.Errorf("%s: the words are either Azure's or Cloister's, not %q's", story, f.words)
	}
	if values["Code"] != "-" {
		f.codes = strings.Split(values["Code"], ", ")
	}
	if e := values["Exit"]; e != "-" {
		number, name, _ := strings.Cut(e, " ")
		code, err := strconv.Atoi(number)
		if err != nil || bootstrap.Describe(bootstrap.ExitCode(code)).Name != name {
			return f, fmt.Errorf("%s: %q is no exit code and its name, or -", story, e)
		}
		f.exit, f.exitName = code, name
	}
	if f.exit == 0 && len(f.codes) == 0 {
		return f, fmt.Errorf("%s has neither a code nor an exit code by which it could be found", story)
	}
	return f, nil
}

// A story without its head would be missing from the table.
func TestFailuresAreReadWholly(t *testing.T) {
	const whole = "# Failure: a\n# Seen: b\n# Code: C, D\n# Exit: 211 ERR_ORAS_PULL_NETWORK_TIMEOUT\n# Words: Azure\n# Mend: e\n"
	if all, err := readFailures("fails-x.txtar", whole); err != nil || len(all) != 1 || all[0].exit != 211 || len(all[0].codes) != 2 || all[0].mend != "e" {
		t.Errorf("%+v, %v", all, err)
	}
	second := strings.Replace(whole, "Failure: a", "Failure: b", 1)
	if all, err := readFailures("fails-x.txtar", whole+"\n# It is told.\ncloister up\n\n"+second); err != nil || len(all) != 2 || all[1].situation != "b" {
		t.Errorf("%+v, %v", all, err)
	}
	for _, field := range failureFields {
		lines := slices.DeleteFunc(strings.Split(whole, "\n"), func(l string) bool { return strings.HasPrefix(l, "# "+field) })
		if _, err := readFailures("fails-x.txtar", strings.Join(lines, "\n")); err == nil {
			t.Errorf("a head without %s is taken", field)
		}
		if _, err := readFailures("fails-x.txtar", whole+strings.Join(lines, "\n")); err == nil && field != failureFields[0] {
			t.Errorf("a further head without %s is taken", field)
		}
	}
	for old, other := range map[string]string{"211 ": "207 ", "Words: Azure": "Words: mine", "Code: C, D\n# Exit: 211 ERR_ORAS_PULL_NETWORK_TIMEOUT": "Code: -\n# Exit: -"} {
		if _, err := readFailures("fails-x.txtar", strings.Replace(whole, old, other, 1)); err == nil {
			t.Errorf("%q is taken for %q", other, old)
		}
	}
}
