(* Arithmetic with precedence climbing: "2 * (3 + 4) ^ 2 ^ 0.5 - -1". *)
type expr =
  | Num of float
  | Neg of expr
  | Bin of char * expr * expr

exception Syntax of int * string

let binding = function
  | '+' | '-' -> Some (1, `Left)
  | '*' | '/' -> Some (2, `Left)
  | '^' -> Some (4, `Right)
  | _ -> None

let parse text =
  let n = String.length text and pos = ref 0 in
  let rec peek () =
    if !pos >= n then None
    else match text.[!pos] with ' ' -> incr pos; peek () | c -> Some c
  in
  let number () =
    let start = !pos in
    while !pos < n && (match text.[!pos] with '0' .. '9' | '.' -> true | _ -> false) do incr pos done;
    match float_of_string_opt (String.sub text start (!pos - start)) with
    | Some x -> Num x
    | None -> raise (Syntax (start, "malformed number"))
  in
  let rec atom () =
    match peek () with
    | Some '(' ->
        incr pos;
        let inside = climb 0 in
        (match peek () with
         | Some ')' -> incr pos; inside
         | _ -> raise (Syntax (!pos, "expected ')'")))
    | Some '-' -> incr pos; Neg (climb 3)
    | Some ('0' .. '9' | '.') -> number ()
    | Some c -> raise (Syntax (!pos, Printf.sprintf "unexpected '%c'" c))
    | None -> raise (Syntax (!pos, "unexpected end"))
  and climb least =
    let rec loop left =
      match Option.bind (peek ()) (fun c -> Option.map (fun b -> (c, b)) (binding c)) with
      | Some (op, (level, side)) when level >= least ->
          incr pos;
          let right = climb (match side with `Left -> level + 1 | `Right -> level) in
          loop (Bin (op, left, right))
      | _ -> left
    in
    loop (atom ())
  in
  let tree = climb 0 in
  match peek () with None -> tree | Some _ -> raise (Syntax (!pos, "trailing input"))

let rec eval = function
  | Num x -> x
  | Neg e -> -. (eval e)
  | Bin (op, a, b) ->
      let x = eval a and y = eval b in
      (match op with
       | '+' -> x +. y | '-' -> x -. y | '*' -> x *. y | '/' -> x /. y
       | _ -> Float.pow x y)

let () = assert (eval (parse "1 - 2 - 3 + -2 ^ 2") = -8.)
