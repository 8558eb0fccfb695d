package model

import (
	"go/token"
	"path"
	"regexp"
	"slices"
	"strings"

	"google.golang.org/protobuf/compiler/protogen"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/pluginpb"

	durablev1 "github.com/durable-go/durable/gen/durable/v1"
)

// Load reads a request. It returns the run of the plugin and the files to write,
// in the order of the request, or every mistake that it found.
func Load(req *pluginpb.CodeGeneratorRequest) (*protogen.Plugin, []*File, error) {
	l := &loader{options: options{packageSuffix: "durable"}}
	plugin, err := protogen.Options{ParamFunc: l.option}.New(req)
	if err != nil {
		return nil, nil, l.explain(req, err)
	}
	plugin.SupportedFeatures = uint64(pluginpb.CodeGeneratorResponse_FEATURE_PROTO3_OPTIONAL |
		pluginpb.CodeGeneratorResponse_FEATURE_SUPPORTS_EDITIONS)
	plugin.SupportedEditionsMinimum = descriptorpb.Edition_EDITION_PROTO2
	plugin.SupportedEditionsMaximum = descriptorpb.Edition_EDITION_2024

	l.plugin = plugin
	l.index()
	l.checkOptions()
	var files []*File
	for _, file := range plugin.Files {
		l.checkVersion(file)
		if f := l.file(file); f != nil {
			l.all = append(l.all, f)
			if file.Generate {
				files = append(files, f)
			}
		}
	}
	l.checkTypes()
	l.checkNames()
	l.checkKeys()
	if err := l.diags.err(); err != nil {
		return nil, nil, err
	}
	return plugin, files, nil
}

// explain returns what is wrong with the go_package options of the request, if
// that is what err is about.
func (l *loader) explain(req *pluginpb.CodeGeneratorRequest, err error) error {
	if !strings.Contains(err.Error(), "Go import path") {
		return err
	}
	mapped := map[string]bool{}
	for param := range strings.SplitSeq(req.GetParameter(), ",") {
		if file, _, ok := strings.Cut(param, "="); ok && strings.HasPrefix(file, "M") {
			mapped[file[1:]] = true
		}
	}
	for _, file := range req.GetProtoFile() {
		importPath, _, _ := strings.Cut(file.GetOptions().GetGoPackage(), ";")
		switch {
		case mapped[file.GetName()]:
		case importPath == "":
			l.diags.addf(file, protoreflect.SourcePath{2}, GoPackageMissing, // at the package statement
				"the file has no option go_package, nor has the plugin an option M%s=", file.GetName())
		case !strings.ContainsAny(importPath, "./"):
			l.diags.addf(file, protoreflect.SourcePath{8, 11}, GoPackageMissing,
				"%q is not an import path: it has neither a period nor a slash", importPath)
		}
	}
	if l.diags.list == nil {
		return err
	}
	return l.diags.err()
}

// A loader makes the model of one request.
type loader struct {
	plugin  *protogen.Plugin
	options options
	symbols map[protoreflect.FullName][]symbol
	all     []*File // also those not to generate
	diags   diagnostics
}

// options are the plugin's own options.
type options struct {
	packageSuffix string   // empty: generate into the package of the messages
	objects       []string // full names of services that are objects without the option
}

func (l *loader) option(name, value string) error {
	switch name {
	case "package_suffix":
		l.options.packageSuffix = value
	case "object":
		l.options.objects = append(l.options.objects, value)
	default:
		l.diags.optionf(OptionUnknown, "%s=%s: the plugin has no such option", name, value)
	}
	return nil
}

func (l *loader) checkOptions() {
	if s := l.options.packageSuffix; s != "" && !token.IsIdentifier("p"+s) {
		l.diags.optionf(PackageSuffix, "package_suffix=%s: the suffix may have letters, digits and underscores", s)
	}
	known := map[string]bool{}
	for _, file := range l.plugin.Files {
		for _, service := range file.Services {
			known[string(service.Desc.FullName())] = file.Generate
		}
	}
	for _, name := range l.options.objects {
		if !known[name] {
			l.diags.optionf(ObjectUnknown, "object=%s: there is no such service in the files to generate "+
				"(buf runs plugins once for each directory, unless its template says strategy: all)", name)
		}
	}
}

var typeSyntax = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9_.-]{0,127}$`)

// file returns the model of a file, nil if it has no objects.
func (l *loader) file(file *protogen.File) *File {
	f := &File{
		Name:       file.GeneratedFilenamePrefix + ".durable.go",
		ImportPath: file.GoImportPath,
		Package:    file.GoPackageName,
		Source:     file.Desc.Path(),
		Descriptor: file.GoDescriptorIdent,
	}
	if suffix := l.options.packageSuffix; suffix != "" {
		name := string(f.Package)
		if token.IsKeyword(strings.TrimPrefix(name, "_")) {
			name = name[1:] // with a suffix it is none, and the go tool skips folders with an underscore in front
		}
		f.Package = protogen.GoPackageName(name + suffix)
		f.ImportPath = protogen.GoImportPath(path.Join(string(f.ImportPath), string(f.Package)))
		dir, base := path.Split(f.Name)
		f.Name = path.Join(dir, string(f.Package), base)
	}
	for _, service := range file.Services {
		opts := service.Desc.Options().(*descriptorpb.ServiceOptions)
		object := proto.GetExtension(opts, durablev1.E_Service).(*durablev1.ServiceOptions).GetObject()
		if object == nil && !slices.Contains(l.options.objects, string(service.Desc.FullName())) {
			l.checkNoObject(file, service)
			continue
		}
		o := &Object{
			Name:        service.GoName,
			Type:        object.GetType(),
			ServiceName: string(service.Desc.Name()),
			FullName:    string(service.Desc.FullName()),
			Comment:     comment(service.Comments),
			Deprecated:  opts.GetDeprecated() || file.Proto.GetOptions().GetDeprecated(),
			service:     service,
		}
		if name := strings.TrimSuffix(o.Name, "Service"); name != "" {
			o.Name = name
		}
		if o.Type == "" {
			o.Type = o.FullName
		}
		for _, method := range service.Methods {
			m := newMethod(o, method)
			l.addConnection(file, m)
			o.Methods = append(o.Methods, m)
		}
		l.addAlarms(file, o, object.GetAlarms())
		f.Objects = append(f.Objects, o)
		if file.Generate {
			l.checkObject(file, o)
		}
	}
	if f.Objects == nil {
		return nil
	}
	return f
}

func newMethod(o *Object, method *protogen.Method) *Method {
	opts := method.Desc.Options().(*descriptorpb.MethodOptions)
	m := &Method{
		Name:       method.GoName,
		StubName:   method.GoName,
		Procedure:  "/" + o.FullName + "/" + string(method.Desc.Name()),
		ReadOnly:   opts.GetIdempotencyLevel() == descriptorpb.MethodOptions_NO_SIDE_EFFECTS,
		Idempotent: opts.GetIdempotencyLevel() == descriptorpb.MethodOptions_IDEMPOTENT,
		Request:    method.Input.GoIdent,
		Response:   method.Output.GoIdent,
		Comment:    comment(method.Comments),
		Deprecated: opts.GetDeprecated(),
		object:     o,
		method:     method,
	}
	switch client, server := method.Desc.IsStreamingClient(), method.Desc.IsStreamingServer(); {
	case client && server:
		m.Shape = BidiStream
	case client:
		m.Shape = ClientStream
	case server:
		m.Shape = ServerStream
	}
	if m.StubName == "Ref" { // the field of that name, which the stub embeds
		m.StubName = "Ref_"
	}
	return m
}

// comment returns the lines of the comment of something. One space is cut from
// every line, so that no comment can be a directive to the Go tools when they
// are printed with one.
func comment(set protogen.CommentSet) string {
	text := set.Leading
	if strings.TrimSpace(string(text)) == "" {
		text = set.Trailing
	}
	lines := strings.Split(string(text), "\n")
	for i, line := range lines {
		lines[i] = strings.TrimPrefix(strings.TrimRight(line, " \t\r"), " ")
	}
	return strings.Trim(strings.Join(lines, "\n"), "\n")
}

func (l *loader) checkObject(file *protogen.File, o *Object) {
	where := o.service.Location.Path
	if !typeSyntax.MatchString(o.Type) {
		l.diags.addf(file.Proto, typePath(o), TypeSyntax, "the type name %q of %s is not 1 to 128 letters, digits, '_', '-' and '.', "+
			"beginning with a letter", o.Type, o.ServiceName)
	}
	if len(o.Methods) == 0 {
		l.diags.addf(file.Proto, at(where, 1), NoMethods, "object %s has no methods", o.ServiceName)
	}
	for _, m := range o.Methods {
		if m.ReadOnly && m.method.Desc.IsStreamingClient() && m.Connection == nil {
			l.diags.addf(file.Proto, at(m.method.Location.Path, 4, 34), NoSideEffectsClientStream,
				"%s: a method to which the client streams cannot be NO_SIDE_EFFECTS", m.method.Desc.Name())
		}
	}
}

func (l *loader) checkTypes() {
	first := map[string]*Object{}
	for _, f := range l.all {
		for _, o := range f.Objects {
			other := first[o.Type]
			if other == nil {
				first[o.Type] = o
				continue
			}
			if !l.fileOf(o.service.Desc).Generate { // then tell it where it can be mended
				o, other = other, o
			}
			if file := l.fileOf(o.service.Desc); file.Generate {
				l.diags.addf(file.Proto, typePath(o), TypeDuplicate, "%s has the type name %q, as has %s",
					o.ServiceName, o.Type, other.FullName)
			}
		}
	}
}

// typePath is where an object has its type name.
func typePath(o *Object) protoreflect.SourcePath { return objectPath(o, 1) }

// objectPath is where an object has something of its options.
func objectPath(o *Object, inner ...protoreflect.FieldNumber) protoreflect.SourcePath {
	return at(at(o.service.Location.Path, 3, durablev1.E_Service.TypeDescriptor().Number(), 1), inner...)
}

func (l *loader) fileOf(d protoreflect.Descriptor) *protogen.File {
	return l.plugin.FilesByPath[d.ParentFile().Path()]
}
