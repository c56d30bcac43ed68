-- A lending library: members borrow copies of books, and pay for days beyond the third week.

create table member (
    id          integer primary key,
    name        text not null check (length(trim(name)) > 0),
    joined_on   date not null default current_date,
    blocked     boolean not null default false
);

create table book (
    isbn        char(13) primary key,
    title       text not null,
    author      text not null,
    published   smallint check (published between 1450 and 2100)
);

create table copy (
    id          integer primary key,
    isbn        char(13) not null references book (isbn) on delete restrict,
    shelf       text not null
);

create table loan (
    id          integer primary key,
    copy_id     integer not null references copy (id),
    member_id   integer not null references member (id),
    lent_on     date not null,
    returned_on date,
    check (returned_on is null or returned_on >= lent_on)
);

-- A copy can be out only once at a time.
create unique index one_open_loan_per_copy on loan (copy_id) where returned_on is null;

-- Which titles are in demand: loans in the last ninety days, and how many copies stand on the shelf right now?
with recent as (
    select c.isbn, count(*) as loans
    from loan l
    join copy c on c.id = l.copy_id
    where l.lent_on >= current_date - interval '90 days'
    group by c.isbn
),
available as (
    select c.isbn, count(*) filter (where l.id is null) as on_shelf, count(*) as owned
    from copy c
    left join loan l on l.copy_id = c.id and l.returned_on is null
    group by c.isbn
)
select b.title,
       b.author,
       coalesce(r.loans, 0) as loans,
       a.on_shelf,
       a.owned,
       rank() over (order by coalesce(r.loans, 0) desc) as place
from book b
join available a using (isbn)
left join recent r using (isbn)
order by place, b.title
limit 20;

-- What does each member owe? Ten cents for each day after the twenty-first, at most five euros per loan.
select m.id,
       m.name,
       sum(least(5.00, 0.10 * greatest(0, coalesce(l.returned_on, current_date) - l.lent_on - 21)))::numeric(8, 2) as owed
from member m
join loan l on l.member_id = m.id
group by m.id, m.name
having sum(greatest(0, coalesce(l.returned_on, current_date) - l.lent_on - 21)) > 0
order by owed desc;

begin;
update member set blocked = true
where id in (
    select member_id from loan
    where returned_on is null and current_date - lent_on > 120
);
insert into loan (id, copy_id, member_id, lent_on)
select coalesce(max(id), 0) + 1, 4711, 12, current_date from loan;
commit;
