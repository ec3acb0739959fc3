<?php
/**
 * A column and a filter in the list of users.
 *
 * @package Avatarmod
 */

namespace Avatarmod;

defined( 'ABSPATH' ) || exit;

/** For who may list users; sending again is for who may edit them. */
final class Users_List {

	private const COLUMN = 'avatarmod';
	private const ACTION = 'avatarmod_again';

	/** Answer the hooks of the list. */
	public static function hook(): void {
		add_filter( 'manage_users_columns', array( self::class, 'columns' ) );
		add_filter( 'manage_users_custom_column', array( self::class, 'cell' ), 10, 3 );
		add_filter( 'views_users', array( self::class, 'views' ) );
		add_filter( 'users_list_table_query_args', array( self::class, 'query' ) );
		add_filter( 'bulk_actions-users', array( self::class, 'actions' ) );
		add_filter( 'handle_bulk_actions-users', array( self::class, 'act' ), 10, 3 );
	}

	/** States in words. */
	public static function states(): array {
		return array(
			Record::UNSENT => __( 'not sent yet', 'avatarmod' ),
			'queued'       => __( 'waiting', 'avatarmod' ),
			'reviewing'    => __( 'in review', 'avatarmod' ),
			'held'         => __( 'waits for a moderator', 'avatarmod' ),
			'approved'     => __( 'approved', 'avatarmod' ),
			'blocked'      => __( 'blocked', 'avatarmod' ),
			'rejected'     => __( 'unusable', 'avatarmod' ),
			'dead'         => __( 'failed', 'avatarmod' ),
		);
	}

	/**
	 * How many users have a picture in each state.
	 *
	 * @return array<string, int>
	 */
	public static function counts(): array {
		global $wpdb;
		$rows = $wpdb->get_results(
			$wpdb->prepare( "SELECT meta_value AS state, COUNT(*) AS users FROM $wpdb->usermeta WHERE meta_key = %s GROUP BY meta_value", Record::STATE )
		);
		return array_map( 'intval', array_column( $rows, 'users', 'state' ) );
	}

	/** Our column. */
	public static function columns( array $columns ): array {
		return $columns + array( self::COLUMN => __( 'Avatar', 'avatarmod' ) );
	}

	/** One cell: the state, and what is wrong. */
	public static function cell( $output, $column, $user_id ) {
		if ( self::COLUMN !== $column ) {
			return $output;
		}
		$record = Record::of( (int) $user_id );
		$state  = self::states()[ $record->state ] ?? '—';
		$why    = '' !== $record->error ? $record->error : $record->reason;
		return esc_html( $state ) . ( '' === $why ? '' : '<br><small>' . esc_html( $why ) . '</small>' );
	}

	/** Filters above the list. */
	public static function views( array $views ): array {
		foreach ( self::counts() as $state => $count ) {
			if ( isset( self::states()[ $state ] ) ) {
				$views[ "avatarmod-$state" ] = sprintf(
					'<a href="%s"%s>%s <span class="count">(%s)</span></a>',
					esc_url( add_query_arg( self::COLUMN, $state, 'users.php' ) ),
					self::asked_for() === $state ? ' class="current" aria-current="page"' : '',
					/* translators: %s: a state, such as "waiting". */
					esc_html( sprintf( __( 'Avatar %s', 'avatarmod' ), self::states()[ $state ] ) ),
					esc_html( number_format_i18n( $count ) )
				);
			}
		}
		return $views;
	}

	/** Only the users of a filter. */
	public static function query( array $args ): array {
		if ( isset( self::states()[ self::asked_for() ] ) ) {
			$args['meta_query'][] = array( // phpcs:ignore WordPress.DB.SlowDBQuery -- Indexed by its key.
				'key'   => Record::STATE,
				'value' => self::asked_for(),
			);
		}
		return $args;
	}

	/** A bulk action. */
	public static function actions( array $actions ): array {
		return $actions + array( self::ACTION => __( 'Send avatars again', 'avatarmod' ) );
	}

	/** Send again what was not accepted, and look who has another picture. WordPress checked the nonce. */
	public static function act( $redirect, $action, $user_ids ) {
		if ( self::ACTION === $action ) {
			foreach ( array_filter( array_map( 'intval', $user_ids ) ) as $user_id ) {
				if ( current_user_can( 'edit_user', $user_id ) ) {
					Sender::again( $user_id );
				}
			}
		}
		return $redirect;
	}

	/** The filter in the address. */
	private static function asked_for(): string {
		return isset( $_GET[ self::COLUMN ] ) ? sanitize_key( $_GET[ self::COLUMN ] ) : ''; // phpcs:ignore WordPress.Security.NonceVerification -- Only reads.
	}
}
